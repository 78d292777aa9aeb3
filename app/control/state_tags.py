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


async def write_live_tags(loop: ControlLoop, registry: RegistrySync) -> None:
    """Write tags for ever: of what was switched here, not what reads differently there.

    Several clusters may share a registry.
    """
    refused: set[str] = set()
    while True:
        await loop.changed.wait()
        loop.changed.clear()
        while loop.live_tags:
            name, tag = next(iter(loop.live_tags.items()))
            try:
                if name in loop.state.models:
                    await registry.set_tag(name, LIVE_TAG, tag)
            except ModelNotFound:
                pass  # deleted meanwhile
            except (RegistryReadOnly, InvalidRequest) as error:  # it stays so until the next switch
                if name not in refused:
                    log.warning("the registry refuses the tag %s of model '%s': %s", LIVE_TAG, name, error.message)
                refused.add(name)
            except ServingError as error:
                log.warning("failed to write the tag %s, trying again in %g s: %s", LIVE_TAG, _RETRY_S, error.message)
                await asyncio.sleep(_RETRY_S)
                continue
            if loop.live_tags.get(name) == tag:
                del loop.live_tags[name]
