"""The ingress deployment. Its FastAPI application is built on the replica, after the handles exist."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.adapters.traces import make_tracer
from app.api.app import create_app
from app.api.http import serve_middleware
from app.api.http.cors import with_cors
from app.api.http.exchange import HttpLimits
from app.api.http.observation import make_observer
from app.api.oip.grpc import Context, InferenceServicer
from app.api.oip.service import InferenceService
from app.deployments.access import make_access
from app.deployments.autoscaling import ONGOING
from app.deployments.feature_client import FeatureClient
from app.deployments.feature_lanes import FeatureLanes
from app.deployments.parquet_process import ParquetProcess
from app.deployments.pool_client import LocalPoolClient
from app.deployments.pool_member import PoolMember
from app.deployments.process import configure_logging, enter_own_folder, memory_bytes, prepare_for_requests
from app.deployments.ray_metrics import RayMetrics
from app.deployments.release_client import ReleaseFollower
from app.deployments.remotes import GATEWAY, RemoteGateway, gateways
from app.errors import InvalidReference, StartupError
from app.metrics.fleet import ReplicaMetrics, exposition, own_families
from app.metrics.lanes import LaneMetrics
from app.metrics.predictions import PredictionMetrics
from app.metrics.releases import ReleaseMetrics
from app.serving.comparison.ledger import Ledger
from app.serving.comparison.statistics import Statistics
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, ModelVersion, parse_ref
from app.serving.releases.table import ReleaseTable
from app.settings import Settings

Q = TypeVar("Q")
A = TypeVar("A")


def _grpc_method(method: Callable[[InferenceServicer, Q, Context], Awaitable[A]]) -> Any:
    async def call(self: Any, request: Q, grpc_context: Context) -> A:  # Serve passes what is named `grpc_context`
        return await method(self._servicer, request, grpc_context)

    call.__name__ = method.__name__
    return call


@serve.deployment(name=GATEWAY)
@serve.ingress()
class Gateway:
    """One gateway replica: it answers HTTP and gRPC and calls the pools, some of which may be inside it."""

    def __init__(
        self,
        settings: Settings,
        releases: DeploymentHandle,
        pools: Mapping[str, DeploymentHandle],
        features: DeploymentHandle | None,
    ) -> None:
        configure_logging(settings)
        self._settings = settings
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        if settings.gateway_pools:
            enter_own_folder()
        self._tracer = make_tracer(settings, "ml-serve-gateway", self._replica_id)
        self._members = [
            PoolMember(name, settings, releases, f"{self._replica_id}:{name}", self._tracer)
            for name in settings.gateway_pools
        ]
        own = {member.name: LocalPoolClient(member) for member in self._members}
        self._metrics = ReleaseMetrics()
        lanes = LaneMetrics() if settings.transport == "lanes" else None
        self._follower = ReleaseFollower(releases, pools, features, own, self._followed, lanes=lanes)
        self._feature_lanes = FeatureLanes(features) if features is not None and lanes is not None else None
        store = FeatureClient(features, self._feature_lanes) if features is not None else None
        self._ledger = Ledger(self._follower.traffic)
        PredictionMetrics(self._ledger)
        self._service = PredictionService(
            self._follower,
            store,
            self._ledger,
            limits=settings.limits,
            batch=settings.batch,
            shadow=settings.shadow,
            stream_idle_s=settings.stream_idle_s,
        )
        self._ray_metrics = RayMetrics()
        self._parquet = ParquetProcess()
        self._access, self._authenticator = make_access(settings)
        self._following: asyncio.Task[None] | None = None
        self._observer = make_observer(self._tracer)
        self._servicer = InferenceServicer(
            InferenceService(self._service, self._follower),
            settings.request_timeout_s,
            access=self._access,
            observer=self._observer,
        )

    async def __serve_build_asgi_app__(self) -> Any:
        prepare_for_requests()
        await asyncio.gather(*(member.start() for member in self._members))  # calls find warm models
        self._follower.start()
        self._ray_metrics.start()
        if self._authenticator is not None:
            self._following = asyncio.create_task(self._authenticator.follow())
        limits = self._settings.limits
        app = create_app(
            self._service,
            self._follower,
            HttpLimits(
                limits.body_bytes,
                limits.json_depth,
                self._settings.request_timeout_s,
                limits.queued_bytes,
                limits.json_bytes,
                echo_request_id=False,
            ),
            default_model=default_model(self._settings),
            read_parquet=self._parquet.read,
            access=self._access,
            scrape=self._scrape,
            observer=self._observer,
        )
        served = with_cors(app, self._settings.cors_origins)
        if not self._settings.access_log:  # which Serve writes
            serve_middleware.SHORTCUT.open(
                app.find if served is app else lambda scope: served if app.find(scope) else None
            )
        return serve_middleware.with_hidden_headers(served)

    def _followed(self, before: ReleaseTable, table: ReleaseTable) -> None:
        self._metrics.observe(before, table)
        self._ledger.follow(before, table)
        for name in table.renewed(before):
            self._service.forget(name)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        # By its module: Serve pickles this class with what its methods name.
        return {ONGOING: serve_middleware.SHORTCUT.ongoing}

    async def check_health(self) -> None:
        """Raise if the replica no longer works. Serve calls this every few seconds."""
        self._follower.check()
        for member in self._members:
            member.check()

    # The gRPC ingress calls these by the protocol's names.
    ServerLive = _grpc_method(InferenceServicer.server_live)
    ServerReady = _grpc_method(InferenceServicer.server_ready)
    ServerMetadata = _grpc_method(InferenceServicer.server_metadata)
    ModelReady = _grpc_method(InferenceServicer.model_ready)
    ModelMetadata = _grpc_method(InferenceServicer.model_metadata)
    ModelInfer = _grpc_method(InferenceServicer.model_infer)
    RepositoryIndex = _grpc_method(InferenceServicer.repository_index)
    RepositoryModelLoad = _grpc_method(InferenceServicer.repository_model_load)
    RepositoryModelUnload = _grpc_method(InferenceServicer.repository_model_unload)

    async def statistics(self, version: ModelVersion) -> Statistics:
        return self._ledger.statistics(version)

    async def metrics(self) -> ReplicaMetrics:
        return ReplicaMetrics(self._replica_id, await asyncio.to_thread(own_families))

    async def _scrape(self) -> bytes:
        """Return the metrics of all replicas."""
        found, usages = await asyncio.gather(gateways().broadcast(RemoteGateway.metrics), self._follower.usage())
        if self._replica_id not in [one.replica for one in found]:
            found.append(await self.metrics())
        return await asyncio.to_thread(exposition, found, usages)

    async def usage(self) -> dict[str, Any]:
        """Return this replica's figures, including those of the pools inside it."""
        own = {"replica": self._replica_id, "deployment": GATEWAY, "rss_bytes": memory_bytes()}
        inside = [member.usage() for member in self._members]
        figures = ("models", "model_bytes", "evictions") if inside else ()
        usage = {**own, **{figure: sum(member[figure] for member in inside) for figure in figures}}
        if inside:
            counts = [member["artifact_cache"] for member in inside]
            usage["artifact_cache"] = {count: sum(each[count] for each in counts) for count in counts[0]}
        return usage

    async def __del__(self) -> None:
        if hasattr(self, "_follower"):
            await self._follower.stop()
        if (lanes := getattr(self, "_feature_lanes", None)) is not None:
            lanes.close()
        if hasattr(self, "_parquet"):
            self._parquet.close()
            self._ray_metrics.stop()
        if (following := getattr(self, "_following", None)) is not None:
            following.cancel()
        for member in getattr(self, "_members", ()):
            await member.stop()
        if (tracer := getattr(self, "_tracer", None)) is not None:
            await tracer.close()


def default_model(settings: Settings) -> ModelRef | None:
    """Return the model that a bare ``/invocations`` calls. Raises `StartupError` for an invalid reference."""
    if settings.default_model is None:
        return None
    try:
        return parse_ref(settings.default_model)
    except InvalidReference as error:
        raise StartupError(f"default_model: {error.message}") from None
