"""The release book on disk, for a restart that finds no registry."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Snapshot:
    """One JSON file, replaced as a whole. `content` is what it holds; empty where there is none that can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        try:
            self.content: dict[str, Any] = dict(json.loads(path.read_text()))
        except (OSError, ValueError):
            self.content = {}

    async def write(self, content: Mapping[str, Any]) -> None:
        """Write `content` where it differs from what the file holds. A file that cannot be written is logged."""
        plain = json.loads(json.dumps(content))
        async with self._writing:
            if plain != self.content:
                self.content = plain
                await asyncio.to_thread(self._write, plain)

    def _write(self, content: Mapping[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(content, indent=1))
            partial.replace(self._path)
        except OSError:
            log.exception("%s cannot be written: a restart without a registry would not know what to serve", self._path)
