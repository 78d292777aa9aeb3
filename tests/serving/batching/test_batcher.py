import asyncio
import random
import weakref
from collections.abc import Awaitable, Callable, Sequence

import pytest

from app.errors import DeadlineExceeded, InvalidInput, ModelFailed, PoolUnavailable, ReplicaDied
from app.serving.batching.batcher import AnsweredBatch, Batcher
from app.serving.batching.chunking import Piece, submit_pieces
from app.serving.batching.limits import BatchLimits
from tests.virtual_time import run

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


async def test_parts_that_arrive_together_share_a_batch() -> None:
    calls = Calls()
    batcher = make(calls)
    assert await asyncio.gather(*(submit(batcher, n) for n in range(10))) == [2 * n for n in range(10)]
    assert calls.batches == [list(range(10))]


async def test_arrivals_during_a_call_share_the_next_one() -> None:
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
async def test_a_batch_stays_within_its_limits(bounds: dict[str, int], size: dict[str, int]) -> None:
    calls = Calls()
    batcher = make(calls, **bounds)
    await asyncio.gather(*(submit(batcher, n, **size) for n in range(5)))
    assert calls.batches == [[0, 1], [2, 3], [4]]


async def test_a_part_over_the_limit_goes_alone() -> None:
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


async def test_no_more_calls_are_in_flight_than_allowed() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls, max_rows=1, max_in_flight=2)
    futures = [submit(batcher, n) for n in range(5)]
    await asyncio.sleep(0.01)
    assert batcher.in_flight == 2
    assert batcher.waiting_rows == 3
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


async def test_an_error_that_no_part_can_cause_is_not_retried() -> None:
    calls = Calls(poison=[1], error=lambda: PoolUnavailable("gone"))
    batcher = make(calls)
    answers = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [PoolUnavailable, PoolUnavailable]
    assert calls.batches == [[1, 2]]
    assert answers[0] is not answers[1]


async def test_a_caller_that_disconnects_fails_nobody_in_its_batch() -> None:
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


async def test_queued_parts_of_disconnected_callers_are_not_sent() -> None:
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


async def test_queued_parts_past_their_deadline_are_not_sent() -> None:
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


async def test_a_call_with_too_few_results_fails_all_its_parts() -> None:
    async def call(parts: Sequence[int]) -> Sequence[int]:
        return parts[1:]

    batcher = make(call)
    answers = await asyncio.gather(submit(batcher, 1), submit(batcher, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]


async def test_a_hanging_call_is_cancelled_at_the_last_deadline() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = make(calls)
    hanging = submit(batcher, 1, deadline=asyncio.get_running_loop().time() + 0.05)
    with pytest.raises(DeadlineExceeded):
        await hanging
    calls.gate.set()
    assert await submit(batcher, 2) == 4


async def test_a_cancelled_part_frees_its_payload() -> None:
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


async def test_a_part_that_kills_replicas_costs_one_more_replica() -> None:
    calls = Calls(poison=[13], error=lambda: ReplicaDied("killed"))
    batcher = make(calls)
    answers = await asyncio.gather(*(submit(batcher, n) for n in range(64)), return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, ReplicaDied)] == [13]
    assert sum(13 in batch for batch in calls.batches) == 2


class Pool:
    """Computes so many calls at a time, in virtual time: a base and a part per row of each. Parts are their rows."""

    def __init__(self, *, slots: int, base_s: float, row_s: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._base_s = base_s
        self._row_s = row_s
        self.batches: list[int] = []

    async def __call__(self, parts: Sequence[int]) -> Sequence[int]:
        async with self._slots:
            self.batches.append(sum(parts))
            await asyncio.sleep(self._base_s + self._row_s * sum(parts))
        return parts


def test_later_parts_join_until_the_first_has_waited_wait_s() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = make(calls, wait_s=0.5)
        loop = asyncio.get_running_loop()
        first = submit(batcher, 1)
        await asyncio.sleep(0.4)
        second = submit(batcher, 2)
        await asyncio.gather(first, second)
        assert calls.batches == [[1, 2]]
        assert loop.time() == pytest.approx(0.5)

    run(main())


def test_a_full_batch_waits_no_longer() -> None:
    async def main() -> None:
        calls = Calls()
        batcher = make(calls, wait_s=0.5, max_rows=3)
        await asyncio.gather(*(submit(batcher, n) for n in range(3)))
        assert asyncio.get_running_loop().time() == 0
        await asyncio.gather(*(submit(batcher, n) for n in range(3, 10)))
        assert asyncio.get_running_loop().time() == 0.5  # the last one alone
        assert calls.batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]

    run(main())


def test_a_part_that_waited_behind_a_call_does_not_wait_again() -> None:
    async def main() -> None:
        pool = Pool(slots=1, base_s=0.3, row_s=0)
        batcher = make(pool, wait_s=0.5)
        first = submit(batcher, 1)
        await asyncio.sleep(0.6)
        second = submit(batcher, 1)
        await first
        await second
        assert asyncio.get_running_loop().time() == pytest.approx(0.6 + 0.5 + 0.3)

    run(main())


def test_changed_limits_hold_from_the_next_batch_on() -> None:
    async def main() -> None:
        limits = BatchLimits(max_rows=2, max_bytes=10**9, max_in_flight=1)
        calls = Calls()
        batcher: Batcher[int, int] = Batcher(calls, lambda: limits)
        calls.gate.clear()
        futures = [submit(batcher, n) for n in range(9)]
        await asyncio.sleep(1)
        assert calls.batches == [[0, 1]]
        limits = BatchLimits(max_rows=4, max_bytes=10**9, max_in_flight=1)
        calls.gate.set()
        assert list(await asyncio.gather(*futures)) == [2 * n for n in range(9)]
        assert calls.batches == [[0, 1], [2, 3, 4, 5], [6, 7, 8]]

    run(main())


def test_waiting_rows_and_seconds_exclude_cancelled_parts() -> None:
    async def main() -> None:
        calls = Calls()
        calls.gate.clear()
        batcher = make(calls)
        now = asyncio.get_running_loop().time
        assert (batcher.waiting_rows, batcher.oldest_wait_s(now())) == (0, 0)
        futures = [submit(batcher, 0)]
        await asyncio.sleep(1)
        futures.append(submit(batcher, 1, rows=5))
        await asyncio.sleep(1)
        futures.append(submit(batcher, 2, rows=30, group="other"))
        await asyncio.sleep(1)
        assert (batcher.waiting_rows, batcher.oldest_wait_s(now())) == (35, 2)
        futures[1].cancel()
        assert (batcher.waiting_rows, batcher.oldest_wait_s(now())) == (30, 1)
        calls.gate.set()
        assert await futures[2] == 4
        assert (batcher.waiting_rows, batcher.oldest_wait_s(now())) == (0, 0)

    run(main())


def test_a_part_that_fails_while_it_waits_fails_alone() -> None:
    async def main() -> None:
        calls = Calls()
        calls.gate.clear()
        batcher = make(calls)
        first = submit(batcher, 1)
        await asyncio.sleep(1)
        expired, stays = submit(batcher, 2, deadline=2), submit(batcher, 3)
        expired.set_exception(DeadlineExceeded("by its caller's timer"))
        await asyncio.sleep(2)
        calls.gate.set()
        assert list(await asyncio.gather(first, stays)) == [2, 6]
        with pytest.raises(DeadlineExceeded, match="its caller's timer"):
            await expired

    run(main())


def test_every_answered_call_is_reported_once() -> None:
    async def main() -> None:
        told: list[AnsweredBatch] = []
        pool = Pool(slots=1, base_s=2, row_s=0.5)
        limits = BatchLimits(max_rows=64, max_bytes=10**9, max_in_flight=1)
        batcher: Batcher[int, int] = Batcher(pool, lambda: limits, told.append)
        first = submit(batcher, 1)
        await asyncio.sleep(1)
        rest = [submit(batcher, 3, rows=3), submit(batcher, 15, rows=15)]
        await asyncio.gather(first, *rest)
        assert told == [AnsweredBatch(1, 1, 0.0, 2.5, 1), AnsweredBatch(2, 18, 1.5, 11.0, 1)]

    run(main())


def test_the_bound_follows_a_pool() -> None:
    async def main() -> None:
        pool = Pool(slots=5, base_s=0.01, row_s=0.001)
        batcher = make(pool, max_in_flight=16)
        end = 20.0

        async def caller(number: int) -> None:
            think = random.Random(number)
            while asyncio.get_running_loop().time() < end:
                await submit(batcher, 1)
                await asyncio.sleep(think.expovariate(1000))

        bounds = []

        async def watch() -> None:
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.5)
                bounds.append(batcher.in_flight_bound)

        await asyncio.gather(watch(), *(caller(number) for number in range(64)))
        assert 4 <= sum(bounds[10:]) / len(bounds[10:]) <= 6.5

    run(main())


@pytest.mark.parametrize("most", [1, 2, 16])
def test_single_rows_and_a_huge_request_do_not_starve_each_other(most: int) -> None:
    """100,000 rows, in pieces of a quarter batch, and a caller with one row every 10 ms."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(slots=2, base_s=0.002, row_s=0.0001)  # a full batch takes 0.1 s
        batcher = make(pool, max_rows=1000, max_in_flight=most)
        cuts = [Piece(250, 250, 250)] * 400
        huge = asyncio.create_task(submit_pieces(batcher, cuts, group=None, deadline=FOREVER))
        waits: list[float] = []

        async def single() -> None:
            started = loop.time()
            await submit(batcher, 1)
            waits.append(loop.time() - started)

        async with asyncio.TaskGroup() as group:
            while not huge.done():
                group.create_task(single())
                await asyncio.sleep(0.01)
        assert huge.result() == [(250, 250)] * 400
        # At worst one full batch is ahead in each slot, before the one that takes the row along.
        assert max(waits) < (most + 1) * 0.105 if most < 3 else max(waits) < 0.4
        assert sum(waits) / len(waits) < 0.1
        # It has at least its quarter: 100,000 rows at a quarter of the pace of both slots.
        assert loop.time() < 4 * 100_000 * 0.000102

    run(main())
