from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DeadlineExceeded
from app.serving.batching.queue import Line, Part, Total
from tests.virtual_time import VirtualTimeLoop

FOREVER = float("inf")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


class Waiting:
    """A line, filled by size of part."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.total = Total()
        self.line: Line[str, str] = Line(self.total)

    def add(self, name: str, rows: int = 1, *, large: bool = False, deadline: float = FOREVER) -> Part[str, str]:
        part: Part[str, str] = Part(loop=self._loop)
        part.payload, part.rows, part.nbytes, part.deadline, part.since = name, rows, rows, deadline, self.line.live
        part.is_large = large
        self.line.append(part)
        return part

    def take(self, max_rows: int = 8, max_bytes: int = 10**9, now: float = 0.0) -> list[str | None]:
        return [part.payload for part in self.line.take(now, max_rows, max_bytes)]


@pytest.fixture
def waiting(loop: asyncio.AbstractEventLoop) -> Waiting:
    return Waiting(loop)


def test_small_parts_go_before_large_ones_that_came_first(waiting: Waiting) -> None:
    waiting.add("large", 8, large=True)
    for name in "abc":
        waiting.add(name)
    assert waiting.take() == ["a", "b", "c"]
    assert waiting.take() == ["large"]


def test_each_batch_takes_a_large_part_that_fits_its_share(waiting: Waiting) -> None:
    for n in range(3):
        waiting.add(f"large {n}", 2, large=True)
    for n in range(10):
        waiting.add(str(n))
    assert waiting.take() == ["large 0", "0", "1", "2", "3", "4", "5"]
    assert waiting.take() == ["large 1", "6", "7", "8", "9"]
    assert waiting.take() == ["large 2"]


def test_without_small_ones_large_parts_fill_a_batch(waiting: Waiting) -> None:
    for n in range(5):
        waiting.add(f"large {n}", 2, large=True)
    assert waiting.take() == ["large 0", "large 1", "large 2", "large 3"]


@pytest.mark.parametrize(("max_rows", "rows"), [(8, 8), (8, 100), (1, 5)])
def test_endless_small_parts_leave_a_quarter_to_large_ones(waiting: Waiting, max_rows: int, rows: int) -> None:
    for _ in range(3):
        waiting.add("large", rows, large=True)
    batches = []
    for _ in range(12):
        for _ in range(max_rows):
            waiting.add("small")
        batches.append(waiting.take(max_rows))
    assert [index for index, batch in enumerate(batches) if "large" in batch] == [3, 7, 11]
    assert all(batch in (["large"], ["small"] * max_rows) for batch in batches)


def test_bytes_limit_a_batch_in_both_lanes(waiting: Waiting) -> None:
    waiting.add("large", 4, large=True)
    waiting.add("a", 3)
    waiting.add("b", 3)
    assert waiting.take(max_rows=16, max_bytes=8) == ["large", "a"]
    assert waiting.take(max_rows=16, max_bytes=8) == ["b"]


def test_a_part_over_a_limit_goes_alone(waiting: Waiting) -> None:
    for name, rows in (("a", 1), ("b", 9), ("c", 1)):
        waiting.add(name, rows)
    assert [waiting.take() for _ in range(3)] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("large", [False, True])
def test_cancelled_and_expired_parts_are_not_sent(waiting: Waiting, large: bool) -> None:
    gone, late, failed, stays = (
        waiting.add(name, 2, large=large, deadline=deadline)
        for name, deadline in (("gone", FOREVER), ("late", 5), ("failed", 5), ("stays", 10))
    )
    waiting.add("small")
    gone.cancel()
    failed.set_exception(DeadlineExceeded("by its caller's own timer"))
    assert (waiting.line.live, waiting.total.rows) == (3, 5)
    assert waiting.take(now=5) == ["stays", "small"]
    assert isinstance(late.exception(), DeadlineExceeded)
    assert isinstance(failed.exception(), DeadlineExceeded)
    assert not stays.done()
    assert (waiting.total.rows, waiting.line.live) == (0, 0)
    assert waiting.take() == []


def test_the_oldest_part_of_both_lanes_is_never_a_cancelled_one(waiting: Waiting) -> None:
    assert waiting.line.oldest_since() == FOREVER
    first = waiting.add("a")
    second = waiting.add("b", large=True)
    waiting.add("c")
    assert waiting.line.oldest_since() == first.since == 0
    first.cancel()
    assert waiting.line.oldest_since() == second.since == 1
    second.cancel()
    assert waiting.line.oldest_since() == 2


@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 10),
    st.integers(1, 20),
)
def test_every_part_is_sent_once_within_the_limits(
    given: list[tuple[int, bool, bool]], max_rows: int, max_bytes: int
) -> None:
    loop = VirtualTimeLoop()
    try:
        waiting = Waiting(loop)
        parts = []
        for n, (rows, large, leaves) in enumerate(given):
            part = waiting.add(str(n), rows, large=large)
            if leaves:
                part.cancel()
            else:
                parts.append(part)
        sent: list[Part[str, str]] = []
        while waiting.line.live:
            assert waiting.line.live == len(parts) - len(sent)
            assert waiting.total.rows == sum(part.rows for part in parts) - sum(part.rows for part in sent)
            batch = waiting.line.take(0.0, max_rows, max_bytes)
            rows = sum(part.rows for part in batch)
            assert len(batch) == 1 or (rows <= max_rows and rows <= max_bytes)
            assert batch
            sent += batch
        assert sorted(sent, key=id) == sorted(parts, key=id)
        for large in (False, True):  # first come, first served in each lane
            order = [int(str(part.payload)) for part in sent if given[int(str(part.payload))][1] is large]
            assert order == sorted(order)
    finally:
        loop.close()
