"""The deployment whose replicas load and run models."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.adapters.traces import make_tracer
from app.deployments.affinity_router import HELD
from app.deployments.pool_member import PoolMember
from app.deployments.process import configure_logging, enter_own_folder, lane_host, prepare_for_requests
from app.errors import ServingError
from app.lanes.server import LaneAddress, LaneServer
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output
from app.settings import Settings


@serve.deployment
class ModelPool:
    """One replica of a pool: a `PoolMember` in a process of its own.

    The constructor returns after the first loads of the assigned versions, so that Serve routes to warm replicas only.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, name: str, settings: Settings, releases: DeploymentHandle
    ) -> None:
        configure_logging(settings)
        enter_own_folder()
        replica_id = serve.get_replica_context().replica_id.unique_id
        self._tracer = make_tracer(settings, f"ml-serve-pool-{name}", replica_id)
        self._member = PoolMember(name, settings, releases, replica_id, self._tracer)
        self._lanes = LaneServer(self._member.predict, "the pool", self._member.held, tells_begin=True)
        self._lane_address: LaneAddress | None = None
        self._drain_s = settings.replica_drain_s
        if (host := lane_host(settings)) is not None:
            self._member.watch(self._lanes.changed)
            self._lane_address = await self._lanes.start(replica_id, host)
        await self._member.start()
        prepare_for_requests()

    # `AffinityRouter` reads the first and the last argument of the following methods.

    async def describe(self, version: ModelVersion, note: CallNote) -> ModelSpec:
        return await self._member.describe(version)

    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        return await self._member.predict(version, batch, note)

    async def invoke(self, version: ModelVersion, body: bytes, note: CallNote) -> bytes:
        return await self._member.invoke(version, body, note)

    async def stream(self, version: ModelVersion, body: bytes, note: CallNote) -> AsyncGenerator[str | ServingError]:
        """Yield events. Our errors are yielded too, because Serve logs a traceback for each raised one."""
        async with aclosing(self._member.stream(version, body, note)) as events:
            try:
                async for event in events:
                    yield event
            except ServingError as error:
                yield copy.copy(error)  # without its traceback's frames

    async def lane_address(self) -> LaneAddress | None:
        """Return where this replica takes lanes; None if it takes none."""
        return self._lane_address

    async def usage(self) -> dict[str, Any]:
        return self._member.usage()

    # Serve calls the following methods periodically, and the last one after the replica's last call.

    async def record_routing_stats(self) -> dict[str, list[ModelVersion]]:
        """Return what routers read: the loaded versions."""
        return {HELD: sorted(self._member.held())}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._member.scaling_stats()

    async def check_health(self) -> None:
        self._member.check()

    async def __del__(self) -> None:
        if hasattr(self, "_member"):
            await self._lanes.stop(self._drain_s)
            await self._member.stop()
            if self._tracer is not None:
                await self._tracer.close()
