"""Bound of the memory of a process, kept by the kernel: an allocation beyond it fails, as a `MemoryError` in Python."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import psutil

from app.errors import PoolUnavailable

_LIMITS = ("memory/memory.limit_in_bytes", "memory.max")
"""Files of cgroups, versions 1 and 2, with the limit of a container in bytes, or the word `max`."""
_IS_LINUX = sys.platform == "linux"
_SHARE = 0.5
"""Of all memory, for one process: the rest is that of the others."""
_FULL = 0.9


class MemoryBound:
    """Bounds this process and those that it starts.

    The bound counts data that no other process shares, `VmData` in `/proc/self/status`, used or only reserved. Ray's
    object store and mapped files do not count. Only Linux keeps it.

    Args:
        nbytes: the bound. 0: a share of the memory of the machine or container. What is in use already stays usable.
    """

    def __init__(self, nbytes: int = 0) -> None:
        self._process = psutil.Process()
        self._nbytes = max(nbytes or int(total_bytes() * _SHARE), data_bytes(self._process))
        if not _IS_LINUX:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            self._nbytes = min(self._nbytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (self._nbytes, hard))

    def check(self) -> None:
        """Raise `PoolUnavailable` if so little is left that most allocations fail."""
        if self.is_full:
            raise PoolUnavailable("a replica has used up its memory; see the pool's process_bytes")

    @property
    def is_full(self) -> bool:
        """Whether so little is left that most allocations fail."""
        return data_bytes(self._process) > _FULL * self._nbytes


def data_bytes(process: psutil.Process | None = None) -> int:
    """Return the private data of a process, by default this one, in bytes; 0 where only Linux could tell."""
    return int((process or psutil.Process()).memory_info().data) if _IS_LINUX else 0


def total_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory of the machine or, if that is less, of the container, in bytes."""
    found = [int(psutil.virtual_memory().total)]
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int((groups / name).read_text()))
    return min(found)
