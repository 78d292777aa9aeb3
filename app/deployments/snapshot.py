"""The release book on disk, for a restart that finds no registry."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)


class Snapshot:
    """One JSON file, replaced as a whole. `content` is what it held at the start; empty where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self._written = b""
        try:
            self.content: dict[str, Any] = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            self.content = {}

    async def write(self, content: Mapping[str, Any]) -> None:
        """Write `content`, JSON values, where it differs from what was written last. A failure is logged."""
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        async with self._writing:
            if text != self._written:
                self._written = text
                await asyncio.to_thread(self._write, text)

    def _write(self, text: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError:
            log.exception("%s cannot be written: a restart without a registry would not know what to serve", self._path)
