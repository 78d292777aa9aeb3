"""What a load adds to the memory of its process. `app.adapters.mlflow.loader` measures each model with it.

No library tells the size of a model whose parts lie in C++, so the process is asked. Its answer is coarse, hence the
rules: it counts only when it is well above what predictions beside the load take and give back, one load is measured at
a time, libraries that came along with the first model of their kind are not that model's, and what a load has already
given back is not counted.
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

RELOADED_BYTES = 64 * 1024**2
"""Size of artifacts up to which a model is loaded twice where its libraries came with it. Beyond it, they weigh less
than a second copy would."""

_PATIENCE_S = 1.0
"""How long a load waits to be measured alone; a slow one must not hold up the others."""


class MemoryGrowth:
    """Measures loads. Safe to use from many threads."""

    def __init__(self) -> None:
        self._measuring = threading.Lock()
        self._disturbed = False

    def of(self, load: Callable[[], T], size: int) -> tuple[T, int]:
        """Run a load; its result, and what it takes in memory.

        Args:
            load: what is measured.
            size: bytes that it takes at least.
        """
        if not self._measuring.acquire(timeout=_PATIENCE_S):
            self._disturbed = True
            return load(), size
        try:
            self._disturbed = False
            modules = len(sys.modules)
            result, grown = _grown(load)
            if grown > max(NOISE_BYTES, size) and len(sys.modules) > modules and size <= RELOADED_BYTES:
                _, grown = _grown(load)
            if self._disturbed or grown < NOISE_BYTES:
                return result, size
            return result, max(grown, size)
        finally:
            self._measuring.release()


def _grown(load: Callable[[], T]) -> tuple[T, int]:
    before = _resident_bytes()
    result = load()
    return result, _resident_bytes() - before


def _resident_bytes() -> int:
    # glibc keeps what is freed, up to MALLOC_TRIM_THRESHOLD_, and can be asked to give it back.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)
