"""Protocols of the methods that deployments call on each other. `app.deployments.rpc.Remote` types calls by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.errors import ServingError
from app.serving.comparison.statistics import Statistics
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import CallNote
from app.serving.placement.states import VersionState
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.rollout import Contract
from app.serving.releases.table import ModelStatus, ReleaseTable, Switch
from app.serving.releases.traffic import TrafficPlan
from app.serving.rows import Batch, Output


class RemoteDeployment(Protocol):
    """Every deployment."""

    async def usage(self) -> dict[str, Any]: ...


class RemoteGateway(RemoteDeployment, Protocol):
    """`app.deployments.gateway.Gateway`."""

    async def statistics(self, version: ModelVersion) -> Statistics: ...


class RemotePool(RemoteDeployment, Protocol):
    """`app.deployments.model_pool.ModelPool`."""

    async def describe(self, version: ModelVersion, note: CallNote) -> ModelSpec: ...
    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output: ...


class RemoteFeatures(RemoteDeployment, Protocol):
    """`app.deployments.features.Features`."""

    async def source(self, query: FeatureQuery) -> FeatureSource: ...
    async def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows: ...
    async def check(self) -> None: ...


class RemoteReleases(RemoteDeployment, Protocol):
    """`app.deployments.releases.Releases`. Methods that return a `ServingError` do so instead of raising it."""

    async def watch(
        self, term: int, epoch: int, member_id: str | None = None, gateway_id: str | None = None
    ) -> ReleaseTable: ...
    async def report(
        self,
        member_id: str,
        pool: str,
        states: Mapping[ModelVersion, VersionState],
        contracts: Mapping[ModelVersion, Contract] = ...,
        *,
        term: int = ...,
        orders: Mapping[ModelVersion, int] = ...,
    ) -> None: ...
    async def worked(self, member_id: str, busy: Mapping[ModelVersion, float]) -> None: ...
    async def left(self, member_id: str) -> None: ...
    async def gateway_left(self, gateway_id: str) -> None: ...
    async def resolve(self, ref: ModelRef) -> ModelVersion | ServingError: ...
    async def load(self, ref: ModelRef) -> ModelVersion | ServingError: ...
    async def unload(self, ref: ModelRef) -> ModelVersion | ServingError: ...
    async def promote(self, version: ModelVersion, alias: str | None, force: bool) -> Switch | ServingError: ...
    async def rollback(self, name: str, alias: str | None) -> Switch | ServingError: ...
    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus | ServingError: ...
    async def status(self) -> Sequence[ModelStatus]: ...
    async def model(self, name: str) -> ModelStatus | ServingError: ...
    async def health(self) -> dict[str, Any]: ...
