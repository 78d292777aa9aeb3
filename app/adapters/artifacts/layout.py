"""Paths of a model version in the artifact cache, and what they contain.

::

    NAME/3/artifacts/       the downloaded files
    NAME/3/manifest.json    size and SHA-256 of each file, and the identity of the version in the registry
    NAME/3/used             locked, shared, by every process that uses the version; its mtime is that of the last use
    NAME/3.partial/         a download or removal under way; its process was killed if 3.lock is not locked
    NAME/3.lock             locked while a process checks, downloads or removes the version
    eviction.lock           locked while a process evicts versions
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.serving.references import ModelVersion

_MAX_NAME_BYTES = 240
"""File systems allow 255. A quoted name of 29 letters outside ASCII can exceed that."""


class Place:
    """The paths of one version; none of them need exist. `folder` is complete if it exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.manifest = folder / "manifest.json"
        self.used = folder / "used"
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.lock = folder.with_name(f"{folder.name}.lock")

    @classmethod
    def of(cls, cache: Path, version: ModelVersion) -> Place:
        """Return the place of a version in a cache folder."""
        return cls(cache / _folder_name(version.name) / _folder_name(version.version))

    def __str__(self) -> str:
        return str(self.folder)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return ``identity`` and ``files`` from the manifest, or None if it cannot be parsed."""
        try:
            manifest = json.loads(self.manifest.read_text())
            return {"identity": str(manifest["identity"]), "files": manifest["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _folder_name(part: str) -> str:
    """Map any text to a unique folder name that fits the file system."""
    # The registry accepts '..' as a name, and MLflow decodes a '%' in a path. `quote` leaves no other '='.
    name = quote(part, safe="").replace(".", "%2E").replace("%", "=")
    if len(name) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(part.encode()).hexdigest()
    return f"{name[: _MAX_NAME_BYTES - len(digest) - 1]}.{digest}"  # no other name has a dot


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, which another process may be removing."""
    nbytes = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                nbytes += os.path.getsize(os.path.join(parent, name))
    return nbytes
