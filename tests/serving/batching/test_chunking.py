from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DeadlineExceeded, ModelFailed
from app.serving.batching.batcher import Batcher
from app.serving.batching.chunking import Piece, pieces, submit_pieces
from app.serving.batching.limits import BatchLimits
from app.serving.rows import Layout, Rows
from tests.virtual_time import run

FOREVER = float("inf")
LIMITS = BatchLimits(max_rows=8, max_bytes=10**9, max_in_flight=2)


class Doubles:
    """Doubles numbers, a second a batch; fails where it is told to. Remembers the batches."""

    def __init__(self, *, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self._poison = poison

    async def __call__(self, parts: Sequence[int]) -> list[int]:
        self.batches.append(list(parts))
        await asyncio.sleep(1)
        if self._poison in parts:
            raise ModelFailed(f"no {self._poison}")
        return [2 * part for part in parts]

    @property
    def sent(self) -> list[int]:
        return [part for batch in self.batches for part in batch]


def numbers(count: int) -> Iterator[Piece[int]]:
    return (Piece(n, 2, 2) for n in range(count))


def split(
    batcher: Batcher[int, int], cuts: Iterable[Piece[int]], *, deadline: float = FOREVER
) -> asyncio.Task[list[int]]:
    async def results() -> list[int]:
        return [result for _, result in await submit_pieces(batcher, cuts, group=None, deadline=deadline)]

    return asyncio.create_task(results())


def test_results_come_in_order_whatever_their_batches() -> None:
    async def main() -> None:
        doubles = Doubles()
        assert await split(Batcher(doubles, lambda: LIMITS), numbers(11)) == [2 * n for n in range(11)]
        assert sorted(doubles.sent) == list(range(11))
        assert max(map(len, doubles.batches)) == 4

    run(main())


def test_pieces_are_cut_only_for_the_batches_in_flight() -> None:
    async def main() -> None:
        batcher = Batcher(Doubles(), lambda: LIMITS)
        cuts = numbers(100)
        whole = split(batcher, cuts)
        await asyncio.sleep(0.5)
        assert next(cuts).payload == 8  # two batches of four
        assert batcher.waiting_rows == 0
        whole.cancel()

    run(main())


def test_large_requests_take_turns() -> None:
    async def main() -> None:
        batcher = Batcher(Doubles(), lambda: LIMITS)
        first = split(batcher, numbers(24))
        second = split(batcher, numbers(24))
        await first
        assert batcher.waiting_rows <= 8
        await second
        assert asyncio.get_running_loop().time() == 6  # 48 pieces, eight at a time

    run(main())


def test_pieces_not_sent_are_withdrawn_on_cancellation() -> None:
    async def main() -> None:
        doubles = Doubles()
        batcher = Batcher(doubles, lambda: BatchLimits(max_rows=8, max_bytes=10**9, max_in_flight=1))
        ahead = batcher.submit(-1, group="other", rows=8, nbytes=8, deadline=FOREVER)
        await asyncio.sleep(0.5)

        task = split(batcher, numbers(100))
        await asyncio.sleep(0)
        assert batcher.waiting_rows == 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert batcher.waiting_rows == 0
        assert await ahead == -2
        assert doubles.sent == [-1]

    run(main())


def test_a_failed_piece_fails_the_request_and_withdraws_the_rest() -> None:
    async def main(errors: list[dict[str, Any]]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        doubles = Doubles(poison=1)
        batcher = Batcher(doubles, lambda: BatchLimits(max_rows=8, max_bytes=10**9, max_in_flight=1))
        whole = split(batcher, numbers(100))
        beside = batcher.submit(1000, group=None, rows=1, nbytes=1, deadline=FOREVER)
        with pytest.raises(ModelFailed, match="no 1"):
            await whole
        assert await beside == 2000
        await asyncio.sleep(10)
        assert batcher.waiting_rows == 0
        assert max(n for n in doubles.sent if n != 1000) < 8  # of a hundred

    errors: list[dict[str, Any]] = []
    run(main(errors))
    assert errors == []


def test_pieces_that_are_late_fail_the_request_once() -> None:
    async def main() -> None:
        batcher = Batcher(Doubles(), lambda: LIMITS)
        with pytest.raises(DeadlineExceeded):
            await split(batcher, numbers(100), deadline=2.5)
        assert asyncio.get_running_loop().time() == 2.5
        assert batcher.waiting_rows == 0

    run(main())


def test_a_request_that_its_caller_gives_up_is_withdrawn() -> None:
    async def main() -> None:
        doubles = Doubles()
        batcher = Batcher(doubles, lambda: LIMITS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await split(batcher, numbers(100))
        await asyncio.sleep(10)
        assert len(doubles.sent) == 16

    run(main())


@given(st.integers(1, 5000), st.integers(2, 1024), st.integers(1, 100_000))
def test_pieces_keep_the_order_and_are_of_about_one_size(count: int, max_rows: int, max_bytes: int) -> None:
    layout = Layout("columns", ("a", "b"), ("int64", "int64"), ((), ()))
    rows = Rows(layout, (np.arange(count), list(range(count))), count)
    cuts = list(pieces(rows, rows.nbytes, max_rows=max_rows, max_bytes=max_bytes))
    assert [value for cut in cuts for value in cut.payload.columns[1]] == list(range(count))
    assert np.concatenate([cut.payload.columns[0] for cut in cuts]).tolist() == list(range(count))
    assert all(cut.rows == cut.payload.count and cut.nbytes == cut.payload.nbytes for cut in cuts)
    sizes = {cut.rows for cut in cuts}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or (4 * max(sizes) <= max_rows and 4 * max(sizes) * 16 <= max_bytes + 64)
