"""Disk space of the artifact cache: evicts versions and removes what killed processes left behind."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.adapters.artifacts.layout import Place, size_of
from app.adapters.artifacts.locks import try_lock

log = logging.getLogger(__name__)

_EVICTION_WAIT_S = 10.0


class _Entry(NamedTuple):
    used_at: float
    folder: Path
    nbytes: int


class CacheSpace:
    """The space of one cache folder. Safe for threads and processes.

    Args:
        max_bytes: limit for all versions together; 0 for no limit.
        wait_s: maximum seconds to wait for another process that evicts; never more than 10.
        evicted: called once per evicted version.
    """

    def __init__(self, folder: Path, max_bytes: int, wait_s: float, evicted: Callable[[], None]) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._wait_s = min(wait_s, _EVICTION_WAIT_S)
        self._evicted = evicted

    def enforce_limit(self) -> None:
        """Evict unused versions until the cache is within its limit. Errors are logged, not raised.

        One process evicts at a time: two would free the same bytes twice.
        """
        if not self._max_bytes:
            return
        try:
            evicting = try_lock(self._folder / "eviction.lock", self._wait_s)
            if evicting is None:
                log.warning("eviction skipped, another process still evicts after %g s", self._wait_s)
                return
            with evicting:
                excess = sum(entry.nbytes for entry in self._entries()) - self._max_bytes
                if excess > 0 and self.free(excess) < excess:
                    log.warning("artifact cache exceeds its limit, every version in use: max_bytes=%d", self._max_bytes)
        except OSError:  # a lock of another user, or files that cannot be removed
            log.exception("eviction from the artifact cache failed")

    def free(self, nbytes: int) -> int:
        """Evict unused versions, least recently used first, until `nbytes` are free. Return the bytes freed."""
        freed = 0
        for entry in sorted(self._entries()):
            if freed >= nbytes:
                break
            if _evict(Place(entry.folder)):
                freed += entry.nbytes
                self._evicted()
                log.info("evicted %s from the artifact cache: megabytes=%.1f", entry.folder, entry.nbytes / 1e6)
        return freed

    def remove(self, place: Place) -> None:
        """Remove one version, unless a process uses, checks or downloads it. Raises `OSError`."""
        if place.folder.is_dir() and _evict(place):
            log.info("removed %s from the artifact cache", place)

    def remove_leftovers(self, own: Place) -> None:
        """Remove partial folders and locks of killed processes, except at the place that the caller has locked."""
        left = [*self._folder.glob("*/*.partial"), *self._folder.glob("*/*.lock")]
        for folder in {path.with_suffix("") for path in left if path.stem.isdigit()} - {own.folder}:
            place = Place(folder)
            if folder.exists() and not place.partial.exists():
                continue
            alone = try_lock(place.lock)
            if alone is None:
                continue
            with alone:
                if place.partial.exists():
                    shutil.rmtree(place.partial, ignore_errors=True)
                    log.info("removed %s, left by a process that was killed", place.partial)
                if not folder.exists():
                    place.lock.unlink()

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._folder.glob("*/*"):
            place = Place(folder)
            if folder.name.isdigit() and place.artifacts.is_dir():
                try:
                    used_at = place.used.stat().st_mtime
                except FileNotFoundError:  # not used since its download, or removed at this moment
                    used_at = 0.0
                yield _Entry(used_at, folder, size_of(folder))


def _evict(place: Place) -> bool:
    """Remove a version unless a process uses, checks or downloads it."""
    alone = try_lock(place.lock)
    if alone is None:
        return False
    with alone:
        unused = try_lock(place.used) if place.folder.is_dir() else None
        if unused is None:
            return False
        with unused:
            place.folder.rename(place.partial)  # a half-removed version must not look like a damaged one
            shutil.rmtree(place.partial, ignore_errors=True)
            place.lock.unlink()
            return True
