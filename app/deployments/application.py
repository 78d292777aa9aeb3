"""One Serve application of all deployments, each with its scaling."""

from __future__ import annotations

import warnings
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.deployments.access import require_access
from app.deployments.affinity_router import AffinityRouter
from app.deployments.autoscaling import PoolScalingPolicy, RequestScalingPolicy
from app.deployments.features import Features
from app.deployments.gateway import Gateway, default_model
from app.deployments.model_pool import ModelPool
from app.deployments.pools import pool_deployment
from app.deployments.releases import Releases
from app.settings import PoolSettings, RequestScaling, Scaling, Settings

# The gateway does admission control itself, in the caller's dialect; Serve's limits are a backstop far above it.
_GATEWAY_ONGOING = 16_384
_BEHIND_ONGOING = 4096
# Interval at which routers learn what replicas hold. For this long, calls may miss a version's new copy.
_HELD_PERIOD_S = 1.0
_MEASURES_PER_LOOK_BACK = 5
_GOODBYE_S = 2.0
"""Seconds beyond the drain in which a replica leaves its pool."""


def compose(settings: Settings) -> Any:
    """Bind gateway, pools, features and releases into one Serve application.

    Raises:
        StartupError: the default model is not a valid reference, or the authentication is not complete.
    """
    require_access(settings)
    default_model(settings)  # an error here stops the start; on a replica, Serve would retry it
    releases = serve.deployment(
        Releases,
        num_replicas=1,
        max_ongoing_requests=_BEHIND_ONGOING,
        ray_actor_options={"num_cpus": 0.1},
        logging_config=_logging(settings),
    ).bind(settings)
    pools = {
        name: ModelPool.options(name=pool_deployment(name), **_pool(settings, pool)).bind(name, settings, releases)  # type: ignore[attr-defined]
        for name, pool in settings.deployed_pools.items()
    }
    folder = settings.feast_folder
    features = (
        serve.deployment(Features, **_by_requests(settings, settings.features)).bind(settings, folder, releases)
        if folder
        else None
    )
    gateway = Gateway.options(**_gateway(settings))  # type: ignore[attr-defined]
    return gateway.bind(settings, releases, pools, features)


def _gateway(settings: Settings) -> dict[str, Any]:
    """Options of the gateway, including what the pools inside it reserve."""
    options = {**_by_requests(settings, settings.gateway), "max_ongoing_requests": _GATEWAY_ONGOING}
    actor = options["ray_actor_options"]
    for pool in settings.gateway_pools.values():
        for key, amount in _reserved(pool).items():
            actor[key] = actor.get(key, 0) + amount
    return options


def _by_requests(settings: Settings, scaling: RequestScaling) -> dict[str, Any]:
    """Options of a deployment that scales on its calls in progress."""
    policy = _policy(RequestScalingPolicy, target_ongoing_requests=scaling.target_ongoing_requests)
    return _scaled(settings, scaling, policy=policy)


def _pool(settings: Settings, pool: PoolSettings) -> dict[str, Any]:
    """Options of a pool: it scales on the load that its replicas report and is called by affinity."""
    policy = _policy(
        PoolScalingPolicy,
        target_rows=pool.target_rows,
        target_busy=pool.target_busy,
        target_wait_ms=pool.target_wait_ms,
    )
    return {
        **_scaled(settings, pool, policy=policy, downscale_to_zero_delay_s=pool.downscale_to_zero_delay_s),
        "request_router_config": RequestRouterConfig(
            request_router_class=f"{AffinityRouter.__module__}:{AffinityRouter.__name__}",
            request_routing_stats_period_s=_HELD_PERIOD_S,
        ),
    }


def _policy(kind: type, **arguments: float) -> dict[str, Any]:
    return {"policy_function": f"{kind.__module__}:{kind.__name__}", "policy_kwargs": arguments}


def _scaled(settings: Settings, scaling: Scaling, **autoscaling: Any) -> dict[str, Any]:
    """Options of every deployment behind `Releases`: replica counts, reservations, limits."""
    fewest, most = settings.replicas(scaling)
    with warnings.catch_warnings():
        # Serve deprecates it in favor of cluster-wide variables that Ray 2.60 does not read yet.
        warnings.filterwarnings("ignore", message="The `metrics_interval_s` field", category=DeprecationWarning)
        config = AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
            metrics_interval_s=scaling.look_back_s / _MEASURES_PER_LOOK_BACK,
            look_back_period_s=scaling.look_back_s,
            **autoscaling,
        )
    return {
        "autoscaling_config": config,
        "max_ongoing_requests": _BEHIND_ONGOING,
        "ray_actor_options": _reserved(scaling),
        "logging_config": _logging(settings),
        "graceful_shutdown_timeout_s": settings.replica_drain_s + _GOODBYE_S,
    }


def _reserved(scaling: Scaling) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus}
    if scaling.memory_bytes:
        actor["memory"] = scaling.memory_bytes
    return actor


def _logging(settings: Settings) -> dict[str, Any]:
    """Options of Serve's own log. `app.deployments.process` sets the level and the form of our log lines.

    At INFO, Serve creates a record per request and discards it if the access log is off.
    """
    level = settings.log_level.upper()
    if level == "INFO" and not settings.access_log:
        level = "WARNING"
    encoding = settings.log_format.upper()
    return {"log_level": level, "enable_access_log": settings.access_log, "encoding": encoding}
