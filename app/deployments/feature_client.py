"""Client of `Features`: a `FeatureStore` over a Ray Serve handle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cachetools import TTLCache

from app.deployments.rpc import Handle, answer
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource

_SOURCE_TTL_S = 30.0


class HandleFeatureStore:
    """A `FeatureStore` over the handle of `Features`; remembers the definitions of sources for half a minute."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._sources: TTLCache[FeatureQuery, FeatureSource] = TTLCache(maxsize=1024, ttl=_SOURCE_TTL_S)

    async def source(self, query: FeatureQuery) -> FeatureSource:
        source: FeatureSource | None = self._sources.get(query)
        if source is None:
            source = self._sources[query] = await answer(self._handle.source.remote(query), "the feature store")
        return source

    async def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        rows: FeatureRows = await answer(self._handle.read.remote(query, entities), "the feature store")
        return rows
