"""The release book on disk, for a restart that finds no registry."""

from __future__ import annotations

import asyncio
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
        self._fails = False
        self.content: dict[str, Any] = {}
        try:
            self.content = dict(orjson.loads(path.read_bytes()))
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError, TypeError):
            log.exception("%s cannot be read, and is left aside", path)

    async def write(self, content: Mapping[str, Any]) -> None:
        """Write `content`, JSON values, where it differs from what was written last.

        A failure is logged, once until it succeeds again: it is tried again with each call.
        """
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        async with self._writing:
            if text != self._written and await asyncio.to_thread(self._has_written, text):
                self._written = text

    def _has_written(self, text: bytes) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError:
            if not self._fails:
                log.exception(
                    "%s cannot be written: a restart without a registry would not know what to serve", self._path
                )
            self._fails = True
            return False
        self._fails = False
        return True
