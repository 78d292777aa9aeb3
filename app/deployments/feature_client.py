"""Client of the `Features` deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cachetools import TTLCache
from ray.serve.handle import DeploymentHandle

from app.deployments.features import Features
from app.deployments.rpc import Remote
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource

_SOURCE_TTL_S = 30.0


class FeatureClient:
    """A `FeatureStore` over the handle of `Features`. It caches the definitions of sources for 30 seconds."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._features = Remote(handle, "the feature store")
        self._sources: TTLCache[FeatureQuery, FeatureSource] = TTLCache(maxsize=1024, ttl=_SOURCE_TTL_S)

    async def source(self, query: FeatureQuery) -> FeatureSource:
        source: FeatureSource | None = self._sources.get(query)
        if source is None:
            source = self._sources[query] = await self._features.call(Features.source, query)
        return source

    async def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        return await self._features.call(Features.read, query, entities)
