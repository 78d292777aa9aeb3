"""Locks on files, shared or exclusive, between the threads and processes of a node.

The kernel lets a lock go when its holder ends, however that comes. A lock file may be removed by who holds it
exclusively: whoever waited for it meanwhile makes it anew.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_LOOK_S = 0.1  # between two looks whether another process is done


class HeldLock:
    """A lock, held until it is released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go; once is enough."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock(path: Path, *, shared: bool = False) -> HeldLock:
    """Lock a file, waiting for it. It is made where it is missing, its folders included."""
    held = None
    while held is None:
        held = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return held


def try_lock(path: Path) -> HeldLock | None:
    """Lock a file exclusively if nobody else holds it."""
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def lock_within(path: Path, seconds: float) -> HeldLock | None:
    """Lock a file exclusively, waiting for it no longer than that; None where somebody else held it all the time."""
    deadline = time.monotonic() + seconds
    held = try_lock(path)
    while held is None and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        held = try_lock(path)
    return held


def _lock(path: Path, how: int) -> HeldLock | None:
    """None where the file was removed or replaced meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # the folder was
        return None
    try:
        fcntl.flock(held, how)
        if os.path.samestat(os.fstat(held), path.stat()):
            return HeldLock(held)
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(held)
        raise
    os.close(held)
    return None
