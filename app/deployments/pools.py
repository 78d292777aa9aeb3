"""What the other deployments know of the configured pools."""

from __future__ import annotations

from app.serving.placement.pool_members import EVERYWHERE, PoolPlan
from app.settings import PoolSettings, Settings


def pool_deployment(pool: str) -> str:
    """Name of the deployment of a pool."""
    return f"ModelPool-{pool}"


def pool_plan(settings: Settings, pool: PoolSettings) -> PoolPlan:
    """Return what the release engine must know of a pool."""
    if pool.placement == "gateway":
        return PoolPlan(copies=EVERYWHERE)
    return PoolPlan(
        copies=pool.copies,
        busy_per_copy=pool.target_busy * pool.predict_threads,
        cold=settings.replicas(pool)[0] == 0,
    )
