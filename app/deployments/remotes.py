"""Protocols of the deployments that `Releases` calls, and that import it for their own calls.

They name and type calls for `app.deployments.rpc.Remote`, as the classes of other deployments do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from ray import serve

from app.deployments.rpc import Remote
from app.errors import ServingError
from app.lanes.server import LaneAddress
from app.metrics.fleet import ReplicaMetrics
from app.serving.comparison.statistics import Statistics
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

GATEWAY = "Gateway"


class RemoteGateway(Protocol):
    """`app.deployments.gateway.Gateway`."""

    async def statistics(self, version: ModelVersion) -> Statistics: ...
    async def metrics(self) -> ReplicaMetrics: ...
    async def usage(self) -> dict[str, Any]: ...


class RemotePool(Protocol):
    """`app.deployments.model_pool.ModelPool`."""

    async def describe(self, version: ModelVersion, note: CallNote) -> ModelSpec: ...
    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output: ...
    async def invoke(self, version: ModelVersion, body: bytes, note: CallNote) -> bytes: ...
    def stream(self, version: ModelVersion, body: bytes, note: CallNote) -> AsyncGenerator[str | ServingError]: ...
    async def lane_address(self) -> LaneAddress | None: ...
    async def usage(self) -> dict[str, Any]: ...


def gateways() -> Remote:
    """Return the gateway deployment of this process's application."""
    return Remote(serve.get_deployment_handle(GATEWAY, serve.get_replica_context().app_name), "the gateway")


async def statistics(version: ModelVersion) -> Statistics:
    """Return what all gateway replicas have counted for a version, without those that do not answer."""
    return sum(await gateways().broadcast(RemoteGateway.statistics, version), Statistics())
