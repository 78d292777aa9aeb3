"""Resolves references that the release table does not hold."""

from __future__ import annotations

import copy
import difflib
from contextlib import suppress

from cachetools import TTLCache

from app.control.loop import ControlLoop
from app.control.registry_sync import RegistrySync
from app.errors import ModelNotFound
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.registered_model import RegisteredModel

_MISSING_KEPT = 4096


class ReferenceResolver:
    """Asks the registry, and remembers for a while what does not exist.

    Args:
        missing_s: seconds for which a missing reference is not asked for again.
    """

    def __init__(self, loop: ControlLoop, registry: RegistrySync, missing_s: float) -> None:
        self._loop = loop
        self._registry = registry
        self._missing: TTLCache[ModelRef, ModelNotFound] = TTLCache(_MISSING_KEPT, ttl=missing_s)

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """Return the version that a reference means. Raises `ModelNotFound`, `RegistryUnavailable`."""
        known = self._loop.state.table.resolve(ref)
        if known is not None:
            return known
        if ref.pinned is not None and self._loop.state.members.holds(ref.pinned):
            return ref.pinned
        missing: ModelNotFound | None = self._missing.get(ref)
        if missing is not None:
            raise copy.copy(missing)
        try:
            return await self._ask_for(ref)
        except ModelNotFound as error:
            self._missing[ref] = error
            raise

    async def _ask_for(self, ref: ModelRef) -> ModelVersion:
        if ref.pinned is not None and await self._registry.has_version(ref.pinned):
            if ref.name not in self._loop.state.models:  # or its deletion would go unnoticed
                await self._registry.model(ref.name)
            return ref.pinned
        try:
            model = await self._model(ref)
        except ModelNotFound as error:
            close = difflib.get_close_matches(ref.name, self._loop.state.models, n=1)
            if not close:
                raise
            raise ModelNotFound(f"{error.message}; did you mean '{close[0]}'?", error.details) from None
        known = self._loop.state.table.resolve(ref)
        if known is None:
            what = f"version {ref.version}" if ref.version else f"alias '{ref.alias}'" if ref.alias else "version"
            details = {"model": ref.name, "aliases": dict(model.aliases)}
            raise ModelNotFound(f"model '{ref.name}' has no {what} that is ready", details)
        return known

    async def _model(self, ref: ModelRef) -> RegisteredModel:
        try:
            return await self._registry.model(ref.name)
        except ModelNotFound:
            if ref.alias is None:
                raise
            with suppress(ModelNotFound):
                return await self._registry.model(str(ref))  # a name with '@'
            raise
