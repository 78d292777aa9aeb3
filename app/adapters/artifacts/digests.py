"""Digests of the files in a folder, and what tells that one was written since: how `ArtifactCache` checks copies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeAlias

Stats: TypeAlias = tuple[tuple[str, int, int, int], ...]


def file_stats(folder: Path) -> Stats:
    """What changes when a file is written, of every file."""
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ino) for path in _files(folder))


def file_digests(folder: Path) -> dict[str, list[int | str]]:
    """Size in bytes and SHA-256 of every file, by relative path."""
    digests: dict[str, list[int | str]] = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return digests


def sync(folder: Path) -> None:
    """Have the disk keep the folder, with all that is in it, over a power cut."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync_one(path)


def sync_one(path: Path) -> None:
    """The same of a file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
