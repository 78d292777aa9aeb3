"""Writes the tag ``serving.live`` of each model, which shows people in the registry what answers."""

from __future__ import annotations

import asyncio
import logging

from app.control.loop import ControlLoop
from app.control.registry_sync import RegistrySync
from app.errors import InvalidRequest, ModelNotFound, RegistryReadOnly, ServingError
from app.serving.releases.tags import LIVE_TAG

log = logging.getLogger(__name__)

_RETRY_S = 30.0


class StateTags:
    """Writes what was switched here, not what reads differently there: several clusters may share a registry."""

    def __init__(self, loop: ControlLoop, registry: RegistrySync) -> None:
        self._loop = loop
        self._registry = registry
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Write tags for ever."""
        while True:
            await self._loop.changed.wait()
            self._loop.changed.clear()
            while self._loop.live_tags:
                try:
                    await self._write_next()
                except ServingError as error:
                    log.warning(
                        "failed to write the tag %s, trying again in %g s: %s", LIVE_TAG, _RETRY_S, error.message
                    )
                    await asyncio.sleep(_RETRY_S)

    async def _write_next(self) -> None:
        name, tag = next(iter(self._loop.live_tags.items()))
        try:
            if name in self._loop.state.models:
                await self._registry.set_tag(name, LIVE_TAG, tag)
        except ModelNotFound:
            pass  # deleted meanwhile
        except (RegistryReadOnly, InvalidRequest) as error:  # it stays so until the next switch
            if name not in self._refused:
                log.warning("the registry refuses the tag %s of model '%s': %s", LIVE_TAG, name, error.message)
            self._refused.add(name)
        if self._loop.live_tags.get(name) == tag:
            del self._loop.live_tags[name]
