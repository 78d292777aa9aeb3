"""The deployment that reads Feast's online store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve

from app.deployments.process import configure_logging, memory_bytes
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.settings import Settings


class Features:
    """The `FeatureStore` of all gateways."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        from app.adapters.feast.store import FeastStore  # noqa: PLC0415 - heavy: only this process imports Feast

        configure_logging(settings)
        self._store = FeastStore(folder)

    async def source(self, query: FeatureQuery) -> FeatureSource:
        return await asyncio.to_thread(self._store.source, query)

    async def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        return await asyncio.to_thread(self._store.read, query, entities)

    async def check(self) -> None:
        """Raise `FeatureStoreUnavailable` if the store cannot be read."""
        await asyncio.to_thread(self._store.check)

    async def usage(self) -> dict[str, Any]:
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": "Features", "rss_bytes": memory_bytes()}
