"""Overload: what would wait in vain is refused, and what is accepted is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from app.errors import DeadlineExceeded, Overloaded
from app.serving.batching.batcher import Batcher
from app.serving.batching.limits import BatchLimits
from app.serving.batching.outflow import Outflow
from tests.virtual_time import run

ROWS_PER_S = 20.0
OFFERED_PER_S = 10 * ROWS_PER_S
PATIENCE_S = 3.0
SECONDS = 30.0


def backlog(speeds: Sequence[float], began: float = 0.0) -> Outflow:
    """Return an outflow after so many seconds, each with so many rows answered and others waiting."""
    outflow = Outflow()
    outflow.taken(5, began)
    for second, speed in enumerate(speeds, 1):
        outflow.left(int(speed), began + second)
        outflow.taken(5, began + second)
    return outflow


def test_a_burst_says_nothing() -> None:
    outflow = backlog([])
    outflow.left(1, 0.5)
    assert not outflow.refuses(10**6, 1.5, 0.5)


def test_the_speed_is_that_of_the_latest_seconds() -> None:
    assert backlog([10] * 30).rows_per_s == 10
    assert 38 < backlog([10] * 30 + [40] * 30).rows_per_s <= 40


def test_what_fits_before_the_deadline_is_accepted() -> None:
    outflow = backlog([10] * 10)
    assert not outflow.refuses(85, deadline=20, now=10)
    assert outflow.refuses(95, deadline=20, now=10)


def test_batches_that_take_all_that_waits_say_nothing() -> None:
    """Few rows in each, every second; a hundred would fit as well."""
    outflow = Outflow()
    for second in range(30):
        outflow.taken(0, second)
        outflow.left(3, second + 1)
    assert not outflow.refuses(1000, deadline=32, now=30)


def test_a_queue_without_backlog_forgets_the_speed() -> None:
    outflow = backlog([10] * 10)
    outflow.taken(0, 10)
    assert outflow.refuses(1000, deadline=15, now=14)
    assert not outflow.refuses(1000, deadline=25, now=24)


def test_an_idle_time_counts_for_nothing() -> None:
    """All that waited was withdrawn. The next burst comes after a long time."""
    outflow = backlog([])
    assert not outflow.refuses(0, deadline=330, now=300)
    outflow.taken(5, 300)
    outflow.left(10, 302)
    assert outflow.rows_per_s == 5


def test_ten_times_the_load_is_refused_and_the_rest_is_answered() -> None:
    count: Counter[str] = Counter()
    waits: list[float] = []

    async def one_by_one(parts: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(len(parts) / ROWS_PER_S)
        return parts

    async def flood() -> None:
        batcher = Batcher(one_by_one, lambda: BatchLimits(max_rows=1, max_bytes=1000, max_in_flight=1, wait_s=0))
        loop = asyncio.get_running_loop()

        async def call() -> None:
            began = loop.time()
            try:
                await batcher.submit(1, group=None, rows=1, nbytes=1, deadline=began + PATIENCE_S)
            except (Overloaded, DeadlineExceeded) as error:
                count[error.code] += 1
                if isinstance(error, Overloaded):
                    waits.append(loop.time() - began)
            else:
                count["answered"] += 1

        calls = []
        while loop.time() < SECONDS:
            calls.append(asyncio.create_task(call()))
            await asyncio.sleep(1 / OFFERED_PER_S)
        await asyncio.gather(*calls)
        await asyncio.sleep(1)
        assert await batcher.submit(1, group=None, rows=1, nbytes=1, deadline=loop.time() + PATIENCE_S) == 1

    run(flood())
    assert count["answered"] > 0.9 * ROWS_PER_S * SECONDS
    assert count["deadline_exceeded"] < 0.05 * count["overloaded"], "the first second is a burst"
    assert max(waits) == 0
