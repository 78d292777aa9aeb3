"""The deployments bound into one application, each with its scaling."""

from __future__ import annotations

from typing import Any

from app.deployments.features import Features
from app.deployments.gateway import Gateway, default_model
from app.deployments.model_pool import ModelPool
from app.deployments.releases import Releases
from app.settings import Scaling, Settings

APPLICATION = "ml-serve"

# Admission is the gateway's own, in the caller's dialect; Serve's bounds are only a backstop far above it.
_GATEWAY_ONGOING = 16_384
_BEHIND_ONGOING = 4096


def compose(settings: Settings) -> Any:
    """Bind gateway, pools, features and releases into one Serve application.

    Raises:
        StartupError: the default model is no reference.
    """
    default_model(settings)  # here it stops the start, on a replica it would only be tried again
    releases = Releases.options(  # type: ignore[attr-defined]
        num_replicas=1,
        max_ongoing_requests=_BEHIND_ONGOING,
        ray_actor_options={"num_cpus": 0.1},
        logging_config=_logging(settings),
    ).bind(settings)
    pools = {
        name: ModelPool.options(name=f"ModelPool-{name}", **_scaled(settings, pool)).bind(name, settings, releases)  # type: ignore[attr-defined]
        for name, pool in settings.pools.items()
    }
    folder = settings.feast_folder
    features = Features.options(**_scaled(settings, settings.features)).bind(settings, folder) if folder else None  # type: ignore[attr-defined]
    gateway = Gateway.options(  # type: ignore[attr-defined]
        **{**_scaled(settings, settings.gateway), "max_ongoing_requests": _GATEWAY_ONGOING}
    )
    return gateway.bind(settings, releases, pools, features)


def _scaled(settings: Settings, scaling: Scaling) -> dict[str, Any]:
    """Options of a deployment: replica counts, what Ray reserves, and bounds that leave admission to the gateway."""
    fewest, most = settings.replicas(scaling)
    actor: dict[str, Any] = {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus}
    if scaling.memory_bytes:
        actor["memory"] = scaling.memory_bytes
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        },
        "max_ongoing_requests": _BEHIND_ONGOING,
        "ray_actor_options": actor,
        "logging_config": _logging(settings),
        "graceful_shutdown_timeout_s": max(settings.drain_s, 1.0) if not settings.is_cluster else 30.0,
    }


def _logging(settings: Settings) -> dict[str, Any]:
    return {"log_level": settings.log_level.upper(), "enable_access_log": settings.access_log}
