"""One fault under steady load: what callers saw of it, and when the platform was whole again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.faults.faulty import NAME, PER_S, Faulty
from tests.faults.report import Fault, report
from tests.steady_load import Outcome, SteadyLoad, told


@dataclass
class Seen:
    """What callers saw.

    Attributes:
        outcomes: of all requests of the steady load.
        failed: those that failed.
        began: when the fault began, as `time.monotonic`.
        ended: when it was done.
        whole_s: seconds until every replica was back and warm.
    """

    outcomes: list[Outcome]
    failed: list[Outcome]
    began: float
    ended: float
    whole_s: float

    @property
    def failing_s(self) -> float:
        """Seconds from the fault to the end of the last request that failed."""
        return max((outcome.done - self.began for outcome in self.failed), default=0.0)

    @property
    def slowest_s(self) -> float:
        return max(outcome.done - outcome.sent for outcome in self.outcomes)

    def tell(self, what: str) -> None:
        """Print what was seen, and add it to the report."""
        print(f"\n  {what}: {len(self.outcomes)} requests, failed: {dict(told(self.failed)) or 'none'}")  # noqa: T201 - shown by `pytest -s`
        report(Fault(what, len(self.outcomes), len(self.failed), self.failing_s, self.slowest_s, self.whole_s))


async def rehearse(
    faulty: Faulty, what: str, fault: Callable[[], None], *, before_s: float = 2.0, after_s: float = 1.0
) -> Seen:
    """Let a fault happen under load and wait until the platform is whole.

    Args:
        what: names the fault in the report.
        fault: blocks until the fault has happened, and if it does not mend itself, until it is mended.
        before_s, after_s: seconds of load before the fault, and after the platform is whole.
    """
    await asyncio.to_thread(faulty.wait_until_whole)
    async with SteadyLoad([NAME], PER_S) as load:
        await asyncio.sleep(before_s)
        began = time.monotonic()
        await asyncio.to_thread(fault)
        ended = time.monotonic()
        await asyncio.sleep(1)  # so that the dead are seen to be missing
        await asyncio.to_thread(faulty.wait_until_whole)
        whole = time.monotonic()
        await asyncio.sleep(after_s)
    seen = Seen(load.outcomes, load.failed, began, ended, whole - began)
    seen.tell(what)
    return seen


def processes(*titles: str) -> list[psutil.Process]:
    """Find the platform's processes of which one word of the command line ends with a title, oldest first."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if process.pid != os.getpid() and any(word.rstrip().endswith(title) for word in words for title in titles):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)
