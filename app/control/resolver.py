"""Resolves references that the release table does not know, for `app.deployments.releases`."""

from __future__ import annotations

import copy
import difflib

from cachetools import TTLCache

from app.control.registry_sync import RegistryReader
from app.errors import ModelNotFound
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.reconciler import ReleaseBook

_MISSING_KEPT = 4096


class ReferenceResolver:
    """Asks the registry, and remembers what does not exist, so that asking for it again and again costs nothing.

    Args:
        missing_s: seconds for which something does not exist.
    """

    def __init__(self, book: ReleaseBook, reader: RegistryReader, missing_s: float) -> None:
        self._book = book
        self._reader = reader
        self._missing: TTLCache[ModelRef, ModelNotFound] = TTLCache(_MISSING_KEPT, ttl=missing_s)

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that a reference means. Raises `ModelNotFound`, `RegistryUnavailable`."""
        known = self._book.table.resolve(ref)
        if known is not None:
            return known
        if ref.pinned is not None and self._book.members.holds(ref.pinned):
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
        pinned = ref.pinned
        if pinned is not None and await self._reader.ask(lambda registry: registry.has_version(pinned)):
            if ref.name not in self._book.models:  # what is served is followed, or its renewal would be missed
                await self._reader.model(ref.name)
            return pinned
        try:
            model = await self._reader.model(ref.name)
        except ModelNotFound as error:
            close = difflib.get_close_matches(ref.name, self._book.models, n=1)
            if not close:
                raise
            raise ModelNotFound(f"{error.message}; did you mean '{close[0]}'?", error.details) from None
        known = self._book.table.resolve(ref)
        if known is None:
            what = f"version {ref.version}" if ref.version else f"alias '{ref.alias}'" if ref.alias else "version"
            details = {"model": ref.name, "aliases": dict(model.aliases)}
            raise ModelNotFound(f"model '{ref.name}' has no {what} that is ready", details)
        return known
