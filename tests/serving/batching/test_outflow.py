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


def test_a_burst_says_nothing() -> None:
    outflow = Outflow(0.0)
    outflow.left(10, 5, 0.5)
    assert outflow.rows_per_s == 0


def test_the_speed_is_that_of_the_latest_seconds() -> None:
    outflow = Outflow(0.0)
    for second in range(1, 31):
        outflow.left(10, 5, float(second))
    assert outflow.rows_per_s == 10
    for second in range(31, 61):
        outflow.left(40, 5, float(second))
    assert 38 < outflow.rows_per_s <= 40


def test_a_queue_that_stays_empty_forgets_the_speed() -> None:
    outflow = Outflow(0.0)
    outflow.left(10, 5, 2.0)
    outflow.left(10, 0, 3.0)
    assert outflow.rows_per_s == 5
    outflow.left(10, 0, 11.0)
    assert outflow.rows_per_s == 0


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
