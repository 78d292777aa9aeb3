"""Digests and stats of the files in a folder, with which `ArtifactCache` verifies its copies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeAlias

Stats: TypeAlias = tuple[tuple[str, int, int, int], ...]


def file_stats(folder: Path) -> Stats:
    """Return path, size, mtime and inode of every file: cheap to read, and changed by any write."""
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ino) for path in _files(folder))


def tree_stats(folder: Path) -> tuple[tuple[str | int, ...], ...]:
    """Return path, mode, size, mtime, ctime and inode of a folder and of everything in it; links are not followed.

    A new or removed name changes its folder. A program can give a file any mtime, but not any ctime.
    """
    return tuple(_entry(path) for path in (folder, *sorted(folder.rglob("*"))))


def _entry(path: Path) -> tuple[str | int, ...]:
    found = path.lstat()
    return str(path), found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def file_digests(folder: Path) -> dict[str, list[int | str]]:
    """Return size in bytes and SHA-256 of every file, by relative path."""
    digests: dict[str, list[int | str]] = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return digests


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk, so that it survives a power cut."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
