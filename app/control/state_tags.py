"""Tells the registry what answers: the tag ``serving.live`` of each model, for people and for a restart without a disk.

Runs in `app.deployments.releases`, which stops short of it where nothing may be written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from app.control.promotions import ReleaseWriter
from app.errors import InvalidRequest, ModelNotFound, RegistryReadOnly, ServingError
from app.serving.releases.alias_state import Live
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.tags import LIVE_TAG

log = logging.getLogger(__name__)

_AGAIN_S = 30.0


class LiveTags:
    """Writes what has been switched here, not what reads differently there: several clusters may share a registry.

    Args:
        book: what answers.
        writer: writes tags.
    """

    def __init__(self, book: ReleaseBook, writer: ReleaseWriter) -> None:
        self._book = book
        self._writer = writer
        self._shown: dict[str, Mapping[str, Live]] = {}
        self._written: dict[str, str] = {}
        self._untold: set[str] = set()

    async def follow(self, changed: asyncio.Event) -> None:
        """Keep all tags as the book has it, for ever.

        Args:
            changed: set whenever something may have been switched.
        """
        while True:
            await changed.wait()
            changed.clear()
            self._forget_deleted()
            for name in list(self._book.models):
                try:
                    await self._write(name)
                except ModelNotFound:
                    continue  # deleted meanwhile
                except (RegistryReadOnly, InvalidRequest) as error:  # until it answers something else
                    self._shown[name] = self._book.live.of(name)
                    if name not in self._untold:
                        self._untold.add(name)
                        log.warning(
                            "what '%s' answers is remembered beside the artifact cache only: %s", name, error.message
                        )
                except ServingError as error:
                    log.warning("what is served is not told to the registry now: %s", error.message)
                    await asyncio.sleep(_AGAIN_S)
                    changed.set()
                    break

    async def _write(self, name: str) -> None:
        live = self._book.live.of(name)
        if self._shown.get(name) == live:
            return
        tag = self._book.live.tag(name, self._book.default_alias)
        if tag is not None and name in self._book.models and self._written.get(name) != tag:
            await self._writer.tell(name, LIVE_TAG, tag)
            self._written[name] = tag
        self._shown[name] = live

    def _forget_deleted(self) -> None:
        known: dict[str, Any]
        for known in (self._shown, self._written):
            for name in known.keys() - self._book.models.keys():
                del known[name]
        self._untold &= self._book.models.keys()
