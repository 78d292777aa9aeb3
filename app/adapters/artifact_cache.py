"""Artifacts of model versions on local disk: downloaded once per node, checked before use.

The folder of a version holds the artifacts and a manifest with the size and SHA-256 of each file and the identity of
the version in the registry, so that neither a damaged file nor a model that was deleted and registered again under the
same number is ever served from here. A process reads every file once to check it, and again when it was written since;
else each model that comes back after it was evicted would be read twice. With the registry down, what is cached is used
as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from filelock import FileLock

from app.serving.model_ref import ModelVersion

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_ARTIFACTS = "artifacts"
_Stats: TypeAlias = tuple[tuple[str, int, int, int], ...]


class ArtifactCache:
    """A folder of downloaded versions, safe for many processes of one node at once.

    Args:
        folder: made when first needed.
        download: fetches a version's artifacts into a folder that exists and is empty.
    """

    def __init__(self, folder: Path, download: Callable[[ModelVersion, Path], None]) -> None:
        self._folder = folder
        self._download = download
        self._checked: dict[Path, _Stats] = {}

    def get(self, version: ModelVersion, identity: str | None) -> Path:
        """Folder of the version's artifacts, downloaded if it is not here, or not intact, or not the same any more.

        Args:
            identity: what tells this version from another one of the same number; None where the registry does not
                answer, and then any intact copy is good.
        """
        name = quote(version.name, safe="").replace(".", "%2E")  # '..' is a name that the registry accepts
        place = self._folder / name / version.version
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not self._is_good(place, identity):
                self._fetch(version, place, identity)
        return place / _ARTIFACTS

    def _is_good(self, place: Path, identity: str | None) -> bool:
        try:
            manifest = json.loads((place / _MANIFEST).read_text())
        except (OSError, ValueError):
            return False
        if identity is not None and manifest["identity"] != identity:
            log.warning("%s was registered anew: its cached artifacts are dropped", place)
            return False
        stats = _stats(place)
        if self._checked.get(place) == stats:  # read once by this process, and not written since
            return True
        if _digests(place / _ARTIFACTS) != manifest["files"]:
            log.warning("%s is damaged: its artifacts are downloaded again", place)
            return False
        self._checked[place] = stats
        return True

    def _fetch(self, version: ModelVersion, place: Path, identity: str | None) -> None:
        partial = place.with_name(f"{place.name}.partial")
        for old in (partial, place):
            shutil.rmtree(old, ignore_errors=True)
        (partial / _ARTIFACTS).mkdir(parents=True)
        self._download(version, partial / _ARTIFACTS)
        manifest = {"identity": identity, "files": _digests(partial / _ARTIFACTS)}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        partial.rename(place)  # a folder under its final name is complete


def _stats(folder: Path) -> _Stats:
    """What changes when a file is written, of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ino) for path in files)


def _digests(folder: Path) -> dict[str, list[int | str]]:
    """Size in bytes and SHA-256 of every file, by relative path."""
    digests: dict[str, list[int | str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return digests
