"""Memory of a loaded model, measured as the growth of the process. `ModelLoader` measures every load with it.

Libraries cannot report the size of a model whose parts live in C++, so the process is measured. That is coarse: growth
counts only if it clearly exceeds what concurrent predictions allocate, one load is measured at a time, the libraries
that the first model of a kind imports do not count, and neither does memory that the load has freed again.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

NOISE_BYTES = 8 * 1024**2
"""Growth up to which the size of the artifacts is the better estimate."""

_MAX_RELOADED_BYTES = 64 * 1024**2
"""A model that imported libraries is loaded a second time to measure it alone, unless its artifacts are larger."""

_PATIENCE_S = 1.0
"""Seconds that a load waits for another measurement; then it runs unmeasured."""


class MemoryGrowth:
    """Measures loads. Thread-safe."""

    def __init__(self) -> None:
        self._measuring = threading.Lock()
        self._disturbed = False

    def measure(self, load: Callable[[], T], min_bytes: int) -> tuple[T, int]:
        """Run `load`. Return its result and its memory in bytes, at least `min_bytes`."""
        if not self._measuring.acquire(timeout=_PATIENCE_S):
            self._disturbed = True
            return load(), min_bytes
        try:
            self._disturbed = False
            modules = len(sys.modules)
            result, grown = _grown(load)
            if grown > max(NOISE_BYTES, min_bytes) and len(sys.modules) > modules and min_bytes <= _MAX_RELOADED_BYTES:
                _, grown = _grown(load)
            is_measured = not self._disturbed and grown >= NOISE_BYTES
            return result, max(grown, min_bytes) if is_measured else min_bytes
        finally:
            self._measuring.release()


def _grown(load: Callable[[], T]) -> tuple[T, int]:
    before = _resident_bytes()
    result = load()
    return result, _resident_bytes() - before


def _resident_bytes() -> int:
    # glibc keeps freed memory, up to MALLOC_TRIM_THRESHOLD_, until it is asked to return it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)
