"""Ten times the requests that a model can answer, for minutes."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress

import aiohttp
import psutil
import pytest

from tests.faults.faulty import SLOW, SLOW_PER_S, Faulty
from tests.faults.rehearsal import Seen, rehearse
from tests.platform import URL

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

MINUTES = float(os.environ.get("FAULTS_OVERLOAD_MINUTES", "2"))
PATIENCE_S = 40.0
"""Longer than the deadline, so that the gateway answers every request."""


async def flood(seconds: float) -> Counter[int]:
    """Call the slow model at ten times its rate; return how often each status came, 0 for none."""
    count: Counter[int] = Counter()
    body = {"instances": [{"x": 1.0, "sent": time.time()}]}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(PATIENCE_S)) as http:

        async def call() -> None:
            status = 0
            with suppress(aiohttp.ClientError, TimeoutError):
                async with http.post(f"{URL}/v1/models/{SLOW}:predict", json=body) as answer:
                    await answer.read()
                    status = answer.status
            count[status] += 1

        began = due = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        while time.monotonic() < began + seconds:
            task = asyncio.create_task(call())
            calls.add(task)
            task.add_done_callback(calls.discard)
            due += 1 / (10 * SLOW_PER_S)
            await asyncio.sleep(due - time.monotonic())
        await asyncio.gather(*calls)
    return count


def memory_mb(faulty: Faulty) -> float:
    names = ("Gateway", "ModelPool")
    return (
        sum(psutil.Process(one.pid).memory_info().rss for name in names for one in faulty.platform.replicas(name))
        / 2**20
    )


async def test_ten_times_the_load_is_refused_and_costs_others_nothing(faulty: Faulty) -> None:
    await flood(2)
    before = memory_mb(faulty)
    statuses: list[Counter[int]] = []
    seen: Seen = await rehearse(
        faulty,
        "ten times the load of a model",
        lambda: statuses.append(asyncio.run(flood(60 * MINUTES))),
    )
    (count,) = statuses
    print(f"  of those: {dict(count)}; memory of the replicas {before:.0f} MB before, {memory_mb(faulty):.0f} MB after")  # noqa: T201
    assert seen.failed == []
    assert {*count} <= {200, 429, 504}
    assert count[200] >= 0.4 * SLOW_PER_S * 60 * MINUTES  # the callers take half of the two cores
    assert (await flood(0.05))[200] >= 1
