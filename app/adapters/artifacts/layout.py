"""Where the artifact cache keeps a model version, and what lies there. Used by `ArtifactCache` and its `CacheSpace`."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.serving.references import ModelVersion

_LONGEST_NAME = 240
"""Bytes. File systems take 255; a name of 29 letters that are not Latin ones can have more when it is quoted."""


class Place:
    """The folder of one version, and what stands beside it; none of it need exist.

    Attributes:
        folder: complete wherever it exists: a download under way is in `partial`, and so is a removal.
        artifacts: what the store gave.
        manifest: a file with the size and the digest of each of them, and whose they are.
        used: a file that is locked, shared, by every process that has the version; its time is that of the last use.
        partial: a folder.
        lock: a file that is locked while the version is looked at, downloaded or removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.manifest = folder / "manifest.json"
        self.used = folder / "used"
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.lock = folder.with_name(f"{folder.name}.lock")

    @classmethod
    def of(cls, cache: Path, version: ModelVersion) -> Place:
        """The version's place in the folder of a cache."""
        return cls(cache / _folder_name(version.name) / _folder_name(version.version))

    def __str__(self) -> str:
        return str(self.folder)

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest's ``identity`` and ``files``, None where it cannot be understood."""
        try:
            manifest = json.loads(self.manifest.read_text())
            return {"identity": manifest["identity"], "files": manifest["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _folder_name(part: str) -> str:
    """A part of a version as the name of a folder, its own whatever it consists of, and however long it is."""
    name = quote(part, safe="").replace(".", "%2E")  # '..' is a name that the registry accepts
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(part.encode()).hexdigest()
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}.{digest}"  # no other name has a dot


def size_of(folder: Path) -> int:
    """Bytes of a folder, which another process may be removing."""
    nbytes = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                nbytes += os.path.getsize(os.path.join(parent, name))
    return nbytes
