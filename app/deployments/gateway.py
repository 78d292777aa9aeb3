"""`Gateway`: the ingress deployment. Its FastAPI application is built on the replica, where its handles are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from app.api.app import create_app
from app.api.exchange import HttpLimits
from app.deployments.calls import Handle
from app.deployments.handles import GATEWAY, HandleFeatureStore, ReleaseFollower
from app.deployments.metrics import PrometheusRecorder
from app.deployments.process import configure_logging, memory_bytes
from app.serving.admission import AdmissionLimits
from app.serving.service import PredictionService, ServiceLimits
from app.settings import Settings


@serve.deployment(name=GATEWAY)
@serve.ingress()
class Gateway:
    """One gateway replica: HTTP in front, the release table and the pools behind."""

    def __init__(
        self, settings: Settings, releases: Handle, pools: Mapping[str, Handle], features: Handle | None
    ) -> None:
        configure_logging(settings)
        self._settings = settings
        self._follower = ReleaseFollower(releases, pools, features)
        store = HandleFeatureStore(features) if features is not None else None
        self._service = PredictionService(self._follower, store, PrometheusRecorder(), service_limits(settings))

    async def __serve_build_asgi_app__(self) -> Any:
        self._follower.start(self._service.forget)
        limits = self._settings.limits
        return create_app(
            self._service,
            self._follower,
            HttpLimits(limits.body_bytes, limits.json_depth, self._settings.request_timeout_s, echo_request_id=False),
        )

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        self._follower.check()

    async def usage(self) -> dict[str, Any]:
        """This replica's own figures."""
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": GATEWAY, "rss_bytes": memory_bytes()}


def service_limits(settings: Settings) -> ServiceLimits:
    """The service's limits as the settings have them."""
    limits, batch = settings.limits, settings.batch
    return ServiceLimits(
        rows=limits.rows,
        columns=limits.columns,
        admission=AdmissionLimits(
            requests=limits.queued_requests,
            requests_per_model=limits.queued_requests_per_model,
            rows=limits.queued_rows,
            nbytes=limits.queued_bytes,
        ),
        batch_rows=batch.max_rows,
        batch_bytes=batch.max_bytes,
        in_flight=batch.max_in_flight,
        wait_s=batch.wait_ms / 1000,
    )
