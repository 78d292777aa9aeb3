"""The deployment that reads Feast's online store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.adapters.traces import make_tracer
from app.deployments.autoscaling import ONGOING
from app.deployments.process import configure_logging, lane_host, memory_bytes
from app.deployments.releases import Releases
from app.deployments.rpc import Remote
from app.errors import ServingError
from app.lanes.server import LaneAddress, LaneServer
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.observation import TraceCarrier, resumed
from app.serving.releases.table import ReleaseTable
from app.settings import Settings

_MODELS_FIRST_S = 30.0


class Features:
    """The `FeatureStore` of all gateways.

    Args:
        releases: handle of the `Releases` deployment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, folder: Path, releases: DeploymentHandle
    ) -> None:
        configure_logging(settings)
        await _first_models(releases)
        from app.adapters.feast.store import FeastStore  # noqa: PLC0415 - heavy: only this process imports Feast

        replica_id = serve.get_replica_context().replica_id.unique_id
        self._store = FeastStore(folder)
        self._tracer = make_tracer(settings, "ml-serve-features", replica_id)
        self._lanes = LaneServer(self.read, "the feature store")
        self._lane_address: LaneAddress | None = None
        self._drain_s = settings.replica_drain_s
        if (host := lane_host(settings)) is not None:
            self._lane_address = await self._lanes.start(replica_id, host)

    async def source(self, query: FeatureQuery) -> FeatureSource:
        return await asyncio.to_thread(self._store.source, query)

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier] = ()
    ) -> FeatureRows:
        if traces and self._tracer is not None:
            with resumed(self._tracer, "read", traces, {"ml_serve.rows": len(entities)}):
                return await asyncio.to_thread(self._store.read, query, entities)
        return await asyncio.to_thread(self._store.read, query, entities)

    async def lane_address(self) -> LaneAddress | None:
        """Return where this replica takes reads over lanes; None if it takes none."""
        return self._lane_address

    async def check(self) -> None:
        """Raise `FeatureStoreUnavailable` if the store cannot be read."""
        await asyncio.to_thread(self._store.check)

    async def usage(self) -> dict[str, Any]:
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": "Features", "rss_bytes": memory_bytes()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {ONGOING: self._lanes.ongoing}

    async def __del__(self) -> None:
        if hasattr(self, "_lanes"):
            await self._lanes.stop(self._drain_s)
            if self._tracer is not None:
                await self._tracer.close()


async def _first_models(releases: DeploymentHandle) -> None:
    """Return when the first models are loaded, or after a while.

    In a start their loads need the CPU more than the import of Feast, which takes 1.7 s of it.
    """
    remote = Remote(releases, "the release table")
    table = ReleaseTable()
    with suppress(TimeoutError, ServingError):
        async with asyncio.timeout(_MODELS_FIRST_S):
            while not table.ready:
                table = await remote.call(Releases.watch, table.term, table.epoch)
