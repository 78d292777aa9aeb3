"""Client of the `Features` deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray.serve.handle import DeploymentHandle

from app.deployments.feature_lanes import FeatureLanes
from app.deployments.features import Features
from app.deployments.rpc import Remote
from app.errors import ReplicaDied
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.observation import TraceCarrier


class FeatureClient:
    """A `FeatureStore` over the handle of `Features`.

    Args:
        lanes: carry the reads, except where there is no lane yet.
    """

    def __init__(self, handle: DeploymentHandle, lanes: FeatureLanes | None = None) -> None:
        self._lanes = lanes
        self._features = Remote(handle, "the feature store")

    async def source(self, query: FeatureQuery) -> FeatureSource:
        source: FeatureSource = await self._features.call(Features.source, query)
        return source

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier] = ()
    ) -> FeatureRows:
        lane = self._lanes.choose() if self._lanes is not None else None
        if lane is not None:
            with suppress(ReplicaDied):  # another replica answers, or the same one once it runs again
                rows: FeatureRows = await lane.call(query, entities, traces)
                return rows
        return await self._features.call(Features.read, query, entities, traces)
