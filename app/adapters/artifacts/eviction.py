"""The space that the artifact cache takes: which versions leave it, and what killed processes have left there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.adapters.artifacts.layout import Place, size_of
from app.adapters.artifacts.locks import lock_within, try_lock

log = logging.getLogger(__name__)

_EVICTION_WAIT_S = 10.0  # a process that hangs while it evicts must not keep others from what they have downloaded


class _Entry(NamedTuple):
    used_at: float
    folder: Path
    nbytes: int


class CacheSpace:
    """May be used from many threads and processes.

    Args:
        folder: that of the cache.
        max_bytes: of all versions together; 0: no bound.
        wait_s: the most seconds to wait for another process that evicts.
        evicted: called for each version that was removed to make room.
    """

    def __init__(self, folder: Path, max_bytes: int, wait_s: float, evicted: Callable[[], None]) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._wait_s = min(wait_s, _EVICTION_WAIT_S)
        self._evicted = evicted

    def make_room(self) -> None:
        """Hold the bound, as far as what is in use allows. One process at a time, or two would free the same bytes.

        Nobody who has a version here need care whether it succeeds: what goes wrong is logged.
        """
        if not self._max_bytes:
            return
        try:
            evicting = lock_within(self._folder / "eviction.lock", self._wait_s)
            if evicting is None:
                log.warning("no room is made in the artifact cache: another process has been at it for too long")
                return
            with evicting:
                over = sum(entry.nbytes for entry in self._entries()) - self._max_bytes
                if over > 0 and self.free(over) < over:
                    log.warning("the artifact cache is over its %d bytes: all that is in it is in use", self._max_bytes)
        except OSError:  # another user's lock, or files that cannot be removed
            log.exception("no room can be made in the artifact cache")

    def free(self, nbytes: int) -> int:
        """Remove versions that nobody has, least recently used first, until so many bytes are free; how many are."""
        freed = 0
        for entry in sorted(self._entries()):
            if freed >= nbytes:
                break
            if _remove(Place(entry.folder)):
                freed += entry.nbytes
                self._evicted()
                log.info("%s is evicted from the artifact cache: %.1f MB", entry.folder, entry.nbytes / 1e6)
        return freed

    def tidy(self, spare: Place) -> None:
        """Remove what processes that were killed have left, but for one place, which the caller has the lock of."""
        for left in [*self._folder.glob("*/*.partial"), *self._folder.glob("*/*.lock")]:
            place = Place(left.with_suffix(""))
            if place.folder == spare.folder or not place.folder.name.isdigit():
                continue
            if left == place.lock and place.folder.exists():
                continue
            alone = try_lock(place.lock)
            if alone is None:
                continue
            with alone:
                if left == place.partial:
                    shutil.rmtree(left, ignore_errors=True)
                    log.info("%s is removed: its process was killed", left)
                if not place.folder.exists():
                    place.lock.unlink()

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._folder.glob("*/*"):
            place = Place(folder)
            if folder.name.isdigit() and place.artifacts.is_dir():
                try:
                    used_at = place.used.stat().st_mtime
                except FileNotFoundError:  # it was not used since it was downloaded, or is being removed
                    used_at = 0.0
                yield _Entry(used_at, folder, size_of(folder))


def _remove(place: Place) -> bool:
    """Remove a version, unless somebody has it or sees to it."""
    alone = try_lock(place.lock)
    if alone is None:
        return False
    with alone:
        unused = try_lock(place.used) if place.folder.is_dir() else None
        if unused is None:
            return False
        with unused:
            place.folder.rename(place.partial)  # what is removed by half must not look like a damaged version
            shutil.rmtree(place.partial, ignore_errors=True)
            place.lock.unlink()
            return True
