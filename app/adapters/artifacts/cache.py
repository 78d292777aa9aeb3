"""Local disk cache of model artifacts: downloaded once per node, verified before use, bounded in bytes.

The cache never returns damaged files, nor those of a deleted model whose name and version number were registered again.
A process verifies the digests of a copy that it did not download, once, and again after a file has changed. The digests
are those of the download: they detect a bad disk, a power cut or an edit, not a wrong download (MLflow has no digests).
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
from typing import IO, NamedTuple

from app.adapters.artifacts.digests import Stats, file_digests, file_stats, sync, sync_tree
from app.adapters.artifacts.eviction import CacheSpace
from app.adapters.artifacts.layout import Place, size_of
from app.adapters.artifacts.locks import lock, try_lock
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)

_UNREADABLE = (errno.EIO, errno.EBADMSG)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class CacheCounts:
    """Counters of one process since its start."""

    hits: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    download_seconds: float = 0.0
    evictions: int = 0
    damaged: int = 0
    """Copies that failed verification and were downloaded again."""


class CachedArtifacts(NamedTuple):
    """Artifacts of one version. They cannot be evicted until `release`, or until the process ends."""

    folder: Path
    identity: str
    lock: IO[bytes]

    def release(self) -> None:
        """Allow eviction. Idempotent."""
        self.lock.close()


class ArtifactCache:
    """A folder of downloaded versions, shared by all threads and processes of a node.

    Args:
        folder: created when first needed.
        download: fetches the artifacts of a version into an existing, empty folder.
        max_bytes: limit for all versions together, enforced after each download: the least recently used versions
            that no process uses are evicted. 0 for no limit.
        wait_s: maximum seconds to wait for another process that checks or downloads the same version.
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
        self._verified: dict[Path, Stats] = {}
        self._counting = threading.Lock()
        self._leftovers_removed = False
        self.counts = CacheCounts()

    def get(self, version: ModelVersion, identity: str) -> CachedArtifacts:
        """Return the artifacts of a version; download them unless an intact copy of this identity is cached.

        Raises:
            OSError: the download failed; with errno `ENOSPC` if the disk is full.
            TimeoutError: another process did not finish with the version in time.
        """
        place = Place.of(self._folder, version)
        with self._locked(version, place):
            cached = self._cached(place, identity)
            if cached is not None:
                return cached
            self._fetch(version, place, identity)
            artifacts = _use(place, identity)
        self._space.enforce_limit()
        return artifacts

    def find(self, version: ModelVersion, identity: str | None) -> CachedArtifacts | None:
        """Return the intact cached copy of a version, if any. Downloads and removes nothing.

        Args:
            identity: None accepts a copy of any identity.
        """
        place = Place.of(self._folder, version)
        if not place.folder.is_dir():
            return None
        with self._locked(version, place):
            return self._cached(place, identity)

    def remove(self, version: ModelVersion, older_than_s: float = 0.0) -> None:
        """Remove a version from disk unless a process uses it or its download is too recent. Never raises."""
        place = Place.of(self._folder, version)
        try:
            if not older_than_s or time.time() - place.manifest.stat().st_mtime >= older_than_s:
                self._space.remove(place)
        except OSError:
            log.exception("failed to remove %s from the artifact cache", version)

    def _locked(self, version: ModelVersion, place: Place) -> IO[bytes]:
        held = try_lock(place.lock)
        if held is None:
            log.info("waiting for another thread or process that downloads or checks %s", version)
            held = try_lock(place.lock, self._wait_s)
        if held is None:
            raise TimeoutError(f"another process still downloads or checks {version} after {self._wait_s:g} s")
        return held

    def _cached(self, place: Place, identity: str | None) -> CachedArtifacts | None:
        if not place.folder.is_dir():
            return None
        manifest = place.read_manifest()
        if manifest is not None and identity not in (None, manifest["identity"]):
            log.warning("ignoring %s: its model was deleted and registered again", place)
            return None
        if manifest is None or not self._is_intact(place, manifest["files"]):
            log.warning("ignoring %s: its files are damaged", place)
            self._count(damaged=1)
            return None
        self._count(hits=1)
        return _use(place, manifest["identity"])

    def _is_intact(self, place: Place, digests: object) -> bool:
        try:
            stats = file_stats(place.artifacts)
            if self._verified.get(place.folder) != stats:
                if file_digests(place.artifacts) != digests:
                    return False
                self._verified[place.folder] = stats
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return False
        return True

    def _fetch(self, version: ModelVersion, place: Place, identity: str) -> None:
        """Download a version whose lock the caller holds; leave nothing behind on failure."""
        if not self._leftovers_removed:
            self._leftovers_removed = True
            self._space.remove_leftovers(place)
        shutil.rmtree(place.folder, ignore_errors=True)
        partial = Place(place.partial)
        while True:
            shutil.rmtree(partial.folder, ignore_errors=True)
            try:
                self._fetch_into(partial, version, identity)
                break
            except BaseException as error:
                needed = size_of(partial.folder)
                shutil.rmtree(partial.folder, ignore_errors=True)
                if not is_full(error):
                    raise
                if not self._space.free(max(1, needed)):
                    raise OSError(errno.ENOSPC, f"the disk of the artifact cache has no room for {version}") from error
                log.warning("disk of the artifact cache full, evicted versions, downloading %s again", version)
        partial.folder.rename(place.folder)  # the commit point: a folder under its final name is complete
        sync(place.folder.parent)
        for verified in [folder for folder in list(self._verified) if not folder.exists()]:
            self._verified.pop(verified, None)
        self._verified[place.folder] = file_stats(place.artifacts)

    def _fetch_into(self, partial: Place, version: ModelVersion, identity: str) -> None:
        started = time.perf_counter()
        partial.artifacts.mkdir(parents=True)
        self._download(version, partial.artifacts)
        files = file_digests(partial.artifacts)
        partial.manifest.write_text(json.dumps({"identity": identity, "files": files}, indent=1))
        sync_tree(partial.folder)
        nbytes, seconds = sum(int(size) for size, _ in files.values()), time.perf_counter() - started
        self._count(downloads=1, downloaded_bytes=nbytes, download_seconds=seconds)
        log.info("downloaded %s: files=%d megabytes=%.1f seconds=%.1f", version, len(files), nbytes / 1e6, seconds)

    def _count(self, **increments: float) -> None:
        with self._counting:
            for name, increment in increments.items():
                setattr(self.counts, name, getattr(self.counts, name) + increment)


def _use(place: Place, identity: str) -> CachedArtifacts:
    held = lock(place.used, shared=True)
    os.utime(place.used)
    return CachedArtifacts(place.artifacts, identity, held)


def is_full(error: BaseException | None) -> bool:
    """Return whether a full disk caused an error. Artifact stores wrap the system's error, some as text only."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
