import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence

import pytest

from app.errors import DeadlineExceeded, InvalidInput, ModelFailed, PoolUnavailable, ReplicaDied
from app.serving.batch_limits import BatchLimits
from app.serving.batching import Batcher

FOREVER = float("inf")


class Calls:
    """Doubles numbers; remembers each batch; fails on the numbers it is told to."""

    def __init__(
        self, *, poison: Sequence[int] = (), error: Callable[[], Exception] = lambda: ModelFailed("bad")
    ) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._poison = set(poison)
        self._error = error

    async def __call__(self, parts: Sequence[int]) -> list[int]:
        self.batches.append(list(parts))
        await self.gate.wait()
        if self._poison & set(parts):
            raise self._error()
        return [2 * part for part in parts]


def make(
    call: Callable[[Sequence[int]], Awaitable[Sequence[int]]], *, wait_s: float = 0.0, **bounds: int
) -> Batcher[int, int]:
    limits = BatchLimits(**{"max_rows": 64, "max_bytes": 10**9, "max_in_flight": 1, **bounds}, wait_s=wait_s)
    return Batcher(call, lambda: limits)


def submit(batcher: Batcher[int, int], part: int, **options: object) -> asyncio.Future[int]:
    given = {"group": None, "rows": 1, "nbytes": 1, "deadline": FOREVER, **options}
    return batcher.submit(part, **given)  # type: ignore[arg-type]


async def test_what_arrives_together_leaves_together() -> None:
    calls = Calls()
    batcher = make(calls)
    assert await asyncio.gather(*(submit(batcher, n) for n in range(10))) == [2 * n for n in range(10)]
    assert calls.batches == [list(range(10))]


async def test_an_idle_model_is_called_at_once_and_arrivals_meanwhile_share_the_next_call() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)
    first = submit(batcher, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [submit(batcher, n) for n in (2, 3, 4)]
    calls.gate.set()
    assert await first == 2
    assert await asyncio.gather(*rest) == [4, 6, 8]
    assert calls.batches == [[1], [2, 3, 4]]


@pytest.mark.parametrize(
    ("bounds", "size"),
    [({"max_rows": 4}, {"rows": 2}), ({"max_bytes": 100}, {"nbytes": 50})],
    ids=["rows", "bytes"],
)
async def test_a_batch_keeps_its_bounds(bounds: dict[str, int], size: dict[str, int]) -> None:
    calls = Calls()
    batcher = make(calls, **bounds)
    await asyncio.gather(*(submit(batcher, n, **size) for n in range(5)))
    assert calls.batches == [[0, 1], [2, 3], [4]]


async def test_a_part_over_the_bound_goes_alone() -> None:
    calls = Calls()
    batcher = make(calls, max_rows=4)
    await asyncio.gather(submit(batcher, 1), submit(batcher, 2, rows=100), submit(batcher, 3))
    assert calls.batches == [[1, 3], [2]]


async def test_groups_never_share_a_call_and_take_turns() -> None:
    calls = Calls()
    batcher = make(calls, max_rows=2)
    futures = [submit(batcher, n, group="a") for n in (1, 2, 3, 4)] + [submit(batcher, n, group="b") for n in (5, 6)]
    await asyncio.gather(*futures)
    assert calls.batches == [[1, 2], [5, 6], [3, 4]]


async def test_no_more_calls_are_under_way_than_allowed() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls, max_rows=1, max_in_flight=2)
    futures = [submit(batcher, n) for n in range(5)]
    await asyncio.sleep(0.01)
    assert batcher.in_flight == 2
    assert batcher.waiting_parts == 3
    calls.gate.set()
    await asyncio.gather(*futures)
    assert batcher.in_flight == 0


@pytest.mark.parametrize("error", [ModelFailed, InvalidInput])
async def test_a_poisonous_part_fails_alone(error: type[Exception]) -> None:
    calls = Calls(poison=[13], error=lambda: error("thirteen"))
    batcher = make(calls)
    answers = await asyncio.gather(*(submit(batcher, n) for n in range(64)), return_exceptions=True)
    assert [answer for n, answer in enumerate(answers) if n != 13] == [2 * n for n in range(64) if n != 13]
    assert isinstance(answers[13], error)


async def test_an_error_that_no_part_can_have_caused_is_not_tried_again() -> None:
    calls = Calls(poison=[1], error=lambda: PoolUnavailable("gone"))
    batcher = make(calls)
    answers = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [PoolUnavailable, PoolUnavailable]
    assert calls.batches == [[1, 2]]
    assert answers[0] is not answers[1]


async def test_of_64_callers_in_one_batch_the_first_disconnects_and_63_get_their_answers() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)

    async def caller(n: int) -> int:
        return await submit(batcher, n)

    tasks = [asyncio.create_task(caller(n)) for n in range(64)]
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in calls.batches] == [64]
    tasks[0].cancel()
    await asyncio.sleep(0)
    calls.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [2 * n for n in range(1, 64)]


async def test_a_batch_runs_in_an_empty_context() -> None:
    import contextvars

    request = contextvars.ContextVar[str]("request")
    seen: list[str | None] = []

    async def call(parts: Sequence[int]) -> Sequence[int]:
        seen.append(request.get(None))
        return parts

    request.set("caller's own")
    batcher = make(call)
    await submit(batcher, 1)
    assert seen == [None]


async def test_queued_work_whose_caller_has_gone_is_not_sent() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)
    first = submit(batcher, 1)
    await asyncio.sleep(0.01)
    gone, stays = submit(batcher, 2), submit(batcher, 3)
    gone.cancel()
    calls.gate.set()
    await asyncio.gather(first, stays)
    assert calls.batches == [[1], [3]]


async def test_queued_work_past_its_deadline_is_not_sent() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)
    first = submit(batcher, 1)
    await asyncio.sleep(0.01)
    late = submit(batcher, 2, deadline=asyncio.get_running_loop().time() - 1)
    calls.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert await first == 2
    assert calls.batches == [[1]]


async def test_a_call_that_answers_too_few_parts_leaves_nobody_waiting() -> None:
    async def call(parts: Sequence[int]) -> Sequence[int]:
        return parts[1:]

    batcher = make(call)
    answers = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]


async def test_a_call_that_hangs_is_given_up_when_nobody_waits_any_more() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)
    hanging = submit(batcher, 1, deadline=asyncio.get_running_loop().time() + 0.05)
    with pytest.raises(DeadlineExceeded):
        await hanging
    calls.gate.set()
    assert await submit(batcher, 2) == 4


async def test_what_a_caller_that_has_gone_had_queued_is_not_held() -> None:
    class Part:
        pass

    async def call(parts: Sequence[Part]) -> Sequence[Part]:
        await asyncio.sleep(60)
        return parts

    batcher: Batcher[Part, Part] = Batcher(call, lambda: BatchLimits(1, 10**9, 1))
    first = batcher.submit(Part(), group=None, rows=1, nbytes=1, deadline=FOREVER)
    await asyncio.sleep(0.01)
    part = Part()
    watched = weakref.ref(part)
    gone = batcher.submit(part, group=None, rows=1, nbytes=1, deadline=FOREVER)
    del part
    gone.cancel()
    await asyncio.sleep(0)
    assert watched() is None
    first.cancel()


async def test_a_part_that_kills_replicas_is_found_with_one_more_death() -> None:
    calls = Calls(poison=[13], error=lambda: ReplicaDied("killed"))
    batcher = make(calls)
    answers = await asyncio.gather(*(submit(batcher, n) for n in range(64)), return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, ReplicaDied)] == [13]
    assert sum(13 in batch for batch in calls.batches) == 2


async def test_a_wait_lets_later_parts_join() -> None:
    calls = Calls()
    batcher: Batcher[int, int] = make(calls, wait_s=0.5)
    first = submit(batcher, 1)
    for _ in range(3):  # without a wait, the first would be on its way by now
        await asyncio.sleep(0)
    assert calls.batches == []
    second = submit(batcher, 2)
    await asyncio.gather(first, second)
    assert calls.batches == [[1, 2]]
