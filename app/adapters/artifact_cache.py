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
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from app.adapters.file_digests import Stats, file_digests, file_stats, sync, sync_one
from app.adapters.file_locks import HeldLock, lock, try_lock
from app.serving.model_ref import ModelVersion

log = logging.getLogger(__name__)

_ARTIFACTS = "artifacts"
_MANIFEST = "manifest.json"
_USED = "used"
_EVICTING = "eviction.lock"
_LOOK_S = 0.1  # between two looks whether another process is done
_LONGEST_NAME = 240
"""Bytes. File systems take 255; a name of 29 letters that are not Latin ones can have more when it is quoted."""
_EVICTION_WAIT_S = 10.0  # a process that hangs while it evicts must not keep others from what they have downloaded
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


class _Entry(NamedTuple):
    used_at: float
    place: Path
    nbytes: int


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
        self._max_bytes = max_bytes
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
        place = self._place(version)
        with self._alone(version, place):
            if self._good(place, identity) is not None:
                self._count(hits=1)
                return self._held(place, identity)
            self._fetch(version, place, identity)
            held = self._held(place, identity)
        try:
            self._make_room()
        except OSError:  # another user's lock, or files that cannot be removed: what was asked for is here all the same
            log.exception("no room can be made in the artifact cache")
        return held

    def find(self, version: ModelVersion, identity: str | None) -> CachedArtifacts | None:
        """The version's artifacts where they are here and intact; nothing is downloaded or dropped.

        Args:
            identity: None where it is not known, and then any intact copy is good.
        """
        place = self._place(version)
        if not place.is_dir():
            return None
        with self._alone(version, place):
            found = self._good(place, identity)
            if found is None:
                return None
            self._count(hits=1)
            return self._held(place, found)

    def _place(self, version: ModelVersion) -> Path:
        return self._folder / _folder_name(version.name) / _folder_name(version.version)

    def _alone(self, version: ModelVersion, place: Path) -> HeldLock:
        held = try_lock(_lock_of(place))
        if held is not None:
            return held
        log.info("%s is being downloaded or checked by another process or thread: it is waited for", version)
        held = self._wait_for(_lock_of(place), self._wait_s)
        if held is None:
            raise TimeoutError(f"{version} was being downloaded by another process for {self._wait_s:g} s")
        return held

    def _wait_for(self, path: Path, seconds: float) -> HeldLock | None:
        deadline = time.monotonic() + seconds
        held = try_lock(path)
        while held is None and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            held = try_lock(path)
        return held

    def _held(self, place: Path, identity: str) -> CachedArtifacts:
        held = lock(place / _USED, shared=True)
        os.utime(place / _USED)
        return CachedArtifacts(place / _ARTIFACTS, identity, held)

    def _good(self, place: Path, identity: str | None) -> str | None:
        """Identity of the intact copy that is here, None where there is none of the wanted identity."""
        if not place.is_dir():
            return None
        manifest = _manifest(place)
        if manifest is not None:
            found = str(manifest["identity"])
            if identity is not None and found != identity:
                log.warning("%s was registered anew: its cached artifacts are of no use", place)
                return None
            try:
                stats = file_stats(place / _ARTIFACTS)
                if self._checked.get(place) == stats:  # read once by this process, and not written since
                    return found
                if file_digests(place / _ARTIFACTS) == manifest["files"]:
                    self._checked[place] = stats
                    return found
            except OSError as error:
                if error.errno not in _BROKEN:
                    raise
        log.warning("%s is damaged", place)
        self._count(damaged=1)
        return None

    def _fetch(self, version: ModelVersion, place: Path, identity: str) -> None:
        """Download into place; nothing is left where that fails. Called with the version's lock."""
        if not self._tidied:
            self._tidied = True
            self._tidy(place)
        shutil.rmtree(place, ignore_errors=True)
        partial = _partial_of(place)
        while not self._has_fetched(version, partial, identity):
            log.warning("the disk of the artifact cache is full: %s is tried again with what was freed", version)
        partial.rename(place)  # a folder under its final name is complete
        sync_one(place.parent)
        for known in list(self._checked):
            if not known.exists():
                self._checked.pop(known, None)
        self._checked[place] = file_stats(place / _ARTIFACTS)

    def _has_fetched(self, version: ModelVersion, partial: Path, identity: str) -> bool:
        """False where the disk was full and is so no more."""
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._fetch_into(version, partial, identity)
        except BaseException as error:
            needed = _size(partial)
            shutil.rmtree(partial, ignore_errors=True)
            if not is_full(error):
                raise
            if not self._free(max(1, needed)):
                raise OSError(errno.ENOSPC, f"the disk of the artifact cache has no room for {version}") from error
            return False
        return True

    def _fetch_into(self, version: ModelVersion, partial: Path, identity: str) -> None:
        started = time.perf_counter()
        (partial / _ARTIFACTS).mkdir(parents=True)
        self._download(version, partial / _ARTIFACTS)
        files = file_digests(partial / _ARTIFACTS)
        (partial / _MANIFEST).write_text(json.dumps({"identity": identity, "files": files}, indent=1))
        sync(partial)
        nbytes, seconds = sum(int(size) for size, _ in files.values()), time.perf_counter() - started
        self._count(downloads=1, downloaded_bytes=nbytes, download_seconds=seconds)
        log.info("%s is downloaded: %d files, %.1f MB in %.1f s", version, len(files), nbytes / 1e6, seconds)

    def _make_room(self) -> None:
        """Hold the bound, as far as what is in use allows. One process at a time, or two would free the same bytes."""
        if not self._max_bytes:
            return
        evicting = self._wait_for(self._folder / _EVICTING, min(self._wait_s, _EVICTION_WAIT_S))
        if evicting is None:
            log.warning("no room is made in the artifact cache: another process has been at it for too long")
            return
        with evicting:
            over = sum(entry.nbytes for entry in self._entries()) - self._max_bytes
            if over > 0 and self._free(over) < over:
                log.warning("the artifact cache is over its %d bytes: all that is in it is in use", self._max_bytes)

    def _free(self, nbytes: int) -> int:
        """Remove versions that nobody has, least recently used first, until so many bytes are free; how many are."""
        freed = 0
        for entry in sorted(self._entries()):
            if freed >= nbytes:
                break
            if self._remove(entry.place):
                freed += entry.nbytes
                self._count(evictions=1)
                log.info("%s is evicted from the artifact cache: %.1f MB", entry.place, entry.nbytes / 1e6)
        return freed

    def _entries(self) -> Iterator[_Entry]:
        for place in self._folder.glob("*/*"):
            if place.name.isdigit() and (place / _ARTIFACTS).is_dir():
                try:
                    used_at = (place / _USED).stat().st_mtime
                except FileNotFoundError:  # it was not used since it was downloaded, or is being removed
                    used_at = 0.0
                yield _Entry(used_at, place, _size(place))

    def _remove(self, place: Path) -> bool:
        """Remove a version, unless somebody has it or sees to it."""
        alone = try_lock(_lock_of(place))
        if alone is None:
            return False
        with alone:
            unused = try_lock(place / _USED) if place.is_dir() else None
            if unused is None:
                return False
            with unused:
                place.rename(_partial_of(place))  # what is removed by half must not look like a damaged version
                shutil.rmtree(_partial_of(place), ignore_errors=True)
                _lock_of(place).unlink()
                return True

    def _tidy(self, spare: Path) -> None:
        """Remove what processes that were killed have left."""
        for left in [*self._folder.glob("*/*.partial"), *self._folder.glob("*/*.lock")]:
            place = left.with_suffix("")
            if place == spare or not place.name.isdigit() or (left.suffix == ".lock" and place.exists()):
                continue
            alone = try_lock(_lock_of(place))
            if alone is None:
                continue
            with alone:
                if left.suffix == ".partial":
                    shutil.rmtree(left, ignore_errors=True)
                    log.info("%s is removed: its process was killed", left)
                if not place.exists():
                    _lock_of(place).unlink()

    def _count(self, **more: float) -> None:
        with self._counting:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def _folder_name(part: str) -> str:
    """A part of a version as the name of a folder, its own whatever it consists of, and however long it is."""
    name = quote(part, safe="").replace(".", "%2E")  # '..' is a name that the registry accepts
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(part.encode()).hexdigest()
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}.{digest}"  # no other name has a dot


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _partial_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.partial")


def _manifest(place: Path) -> dict[str, Any] | None:
    """What was written down of a version, None where it cannot be understood."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text())
        return {"identity": manifest["identity"], "files": manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(folder: Path) -> int:
    """Bytes of a folder, which another process may be removing."""
    nbytes = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                nbytes += os.path.getsize(os.path.join(parent, name))
    return nbytes


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: stores wrap the system's own in theirs, some as text alone."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
