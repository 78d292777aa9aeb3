"""File locks, shared or exclusive, between the threads and processes of one node.

The kernel releases a lock when its holder closes the file or ends, even after `kill -9`. The holder of an exclusive
lock may delete the file; a waiting process then locks a new file at the same path.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

_POLL_S = 0.1


def lock(path: Path, *, shared: bool = False) -> IO[bytes]:
    """Lock a file, which is created if needed, and wait for it. Close the returned file to release it."""
    held = None
    while held is None:
        held = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return held


def try_lock(path: Path, timeout_s: float = 0.0) -> IO[bytes] | None:
    """Lock a file exclusively, as `lock` does. Return None if others held it for `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            held = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = None
        if held is not None or time.monotonic() >= deadline:
            return held
        time.sleep(_POLL_S)


def _lock(path: Path, operation: int) -> IO[bytes] | None:
    with suppress(FileNotFoundError), ExitStack() as closing:
        file = closing.enter_context(_open(path))
        fcntl.flock(file, operation)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            closing.pop_all()
            return file
    return None  # the file or its folder was deleted meanwhile


def _open(path: Path) -> IO[bytes]:
    # Read and write: NFS needs the one for a shared lock and the other for an exclusive one.
    try:
        return path.open("a+b")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
