"""Artifacts of model versions on local disk: downloaded once per node, checked before use, bounded in bytes.

::

    NAME/3/artifacts/       what the store gave
    NAME/3/manifest.json    size and SHA-256 of each file, and the identity of the version in the registry
    NAME/3/used             locked, shared, by every process that has the version; its time is that of the last use
    NAME/3.partial/         a download or a removal under way; of a process that was killed, where nobody holds the lock
    NAME/3.lock             held while the version is looked at, downloaded or removed
    eviction.lock           held while what is over the bound is removed

Neither a damaged file nor a model that was deleted and registered again under the same number is ever served from here.
The digests are those of what was downloaded: they prove that nothing has changed since, by a bad disk, a power cut or a
person, and not that the store gave the right bytes, for MLflow keeps no digests. A process reads every file of what it
did not download itself once to check it, and again when it was written since.

With the registry down, what is cached is used as it is.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.adapters.artifacts.digests import Stats, file_digests, file_stats, sync, sync_one
from app.adapters.artifacts.eviction import CacheSpace
from app.adapters.artifacts.layout import Place, size_of
from app.adapters.artifacts.locks import HeldLock, lock, lock_within, try_lock
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)

_BROKEN = (errno.EIO, errno.EBADMSG)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class CacheCounts:
    """What one process has done with the cache since it started."""

    hits: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    download_seconds: float = 0.0
    evictions: int = 0
    damaged: int = 0
    """Copies that did not pass their check and were downloaded again."""


class CachedArtifacts:
    """A version's artifacts in `folder`, which stays until they are released or the process ends; whose they are."""

    def __init__(self, folder: Path, identity: str, held: HeldLock) -> None:
        self.folder = folder
        self.identity = identity
        self._held = held

    def release(self) -> None:
        """They are not read any more."""
        self._held.release()


class ArtifactCache:
    """A folder of downloaded versions, safe for many processes of one node at once.

    Args:
        folder: made when first needed.
        download: fetches a version's artifacts into a folder that exists and is empty.
        max_bytes: of all versions together; after a download the least recently used ones leave, but none that a
            process has. 0: no bound.
        wait_s: seconds to wait for another process that sees to the same version: one that hangs must not take all
            others with it.
    """

    def __init__(
        self,
        folder: Path,
        download: Callable[[ModelVersion, Path], None],
        max_bytes: int = 0,
        wait_s: float = 300.0,
    ) -> None:
        self._wait_s = wait_s
        self._folder = folder
        self._download = download
        self._space = CacheSpace(folder, max_bytes, wait_s, lambda: self._count(evictions=1))
        self._checked: dict[Path, Stats] = {}
        self._counting = threading.Lock()
        self._tidied = False
        self.counts = CacheCounts()

    def use(self, version: ModelVersion, identity: str) -> CachedArtifacts:
        """The version's artifacts, downloaded if they are not here, or not intact, or not the same any more.

        Args:
            identity: what tells this version from another one of the same number.

        Raises:
            OSError: they cannot be downloaded; with the number `ENOSPC` where the disk is full.
            TimeoutError: another process has been at it for too long.
        """
        place = Place.of(self._folder, version)
        with self._alone(version, place):
            if self._good(place, identity) is not None:
                self._count(hits=1)
                return self._held(place, identity)
            self._fetch(version, place, identity)
            held = self._held(place, identity)
        self._space.make_room()
        return held

    def find(self, version: ModelVersion, identity: str | None) -> CachedArtifacts | None:
        """The version's artifacts where they are here and intact; nothing is downloaded or dropped.

        Args:
            identity: None where it is not known, and then any intact copy is good.
        """
        place = Place.of(self._folder, version)
        if not place.folder.is_dir():
            return None
        with self._alone(version, place):
            found = self._good(place, identity)
            if found is None:
                return None
            self._count(hits=1)
            return self._held(place, found)

    def _alone(self, version: ModelVersion, place: Place) -> HeldLock:
        held = try_lock(place.lock)
        if held is not None:
            return held
        log.info("%s is being downloaded or checked by another process or thread: it is waited for", version)
        held = lock_within(place.lock, self._wait_s)
        if held is None:
            raise TimeoutError(f"{version} was being downloaded by another process for {self._wait_s:g} s")
        return held

    def _held(self, place: Place, identity: str) -> CachedArtifacts:
        held = lock(place.used, shared=True)
        os.utime(place.used)
        return CachedArtifacts(place.artifacts, identity, held)

    def _good(self, place: Place, identity: str | None) -> str | None:
        """Identity of the intact copy that is here, None where there is none of the wanted identity."""
        if not place.folder.is_dir():
            return None
        manifest = place.read_manifest()
        if manifest is not None:
            found = str(manifest["identity"])
            if identity is not None and found != identity:
                log.warning("%s was registered anew: its cached artifacts are of no use", place)
                return None
            try:
                stats = file_stats(place.artifacts)
                if self._checked.get(place.folder) == stats:  # read once by this process, and not written since
                    return found
                if file_digests(place.artifacts) == manifest["files"]:
                    self._checked[place.folder] = stats
                    return found
            except OSError as error:
                if error.errno not in _BROKEN:
                    raise
        log.warning("%s is damaged", place)
        self._count(damaged=1)
        return None

    def _fetch(self, version: ModelVersion, place: Place, identity: str) -> None:
        """Download into place; nothing is left where that fails. Called with the version's lock."""
        if not self._tidied:
            self._tidied = True
            self._space.tidy(place)
        shutil.rmtree(place.folder, ignore_errors=True)
        partial = Place(place.partial)
        while not self._has_fetched(version, partial, identity):
            log.warning("the disk of the artifact cache is full: %s is tried again with what was freed", version)
        partial.folder.rename(place.folder)  # a folder under its final name is complete
        sync_one(place.folder.parent)
        for known in list(self._checked):
            if not known.exists():
                self._checked.pop(known, None)
        self._checked[place.folder] = file_stats(place.artifacts)

    def _has_fetched(self, version: ModelVersion, partial: Place, identity: str) -> bool:
        """False where the disk was full and is so no more."""
        shutil.rmtree(partial.folder, ignore_errors=True)
        try:
            self._fetch_into(version, partial, identity)
        except BaseException as error:
            needed = size_of(partial.folder)
            shutil.rmtree(partial.folder, ignore_errors=True)
            if not is_full(error):
                raise
            if not self._space.free(max(1, needed)):
                raise OSError(errno.ENOSPC, f"the disk of the artifact cache has no room for {version}") from error
            return False
        return True

    def _fetch_into(self, version: ModelVersion, partial: Place, identity: str) -> None:
        started = time.perf_counter()
        partial.artifacts.mkdir(parents=True)
        self._download(version, partial.artifacts)
        files = file_digests(partial.artifacts)
        partial.manifest.write_text(json.dumps({"identity": identity, "files": files}, indent=1))
        sync(partial.folder)
        nbytes, seconds = sum(int(size) for size, _ in files.values()), time.perf_counter() - started
        self._count(downloads=1, downloaded_bytes=nbytes, download_seconds=seconds)
        log.info("%s is downloaded: %d files, %.1f MB in %.1f s", version, len(files), nbytes / 1e6, seconds)

    def _count(self, **more: float) -> None:
        with self._counting:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: stores wrap the system's own in theirs, some as text alone."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
