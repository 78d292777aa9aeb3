"""Limits on CPU time, which other work on the machine does not use up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def within_cpu_seconds(most: float) -> Iterator[None]:
    """Fail what needs more CPU time, however long it waits for the CPU."""

    def fail(*_: object) -> None:
        pytest.fail(f"it took more than {most:g} CPU seconds")

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, most)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
