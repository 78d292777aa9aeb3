"""Prometheus metrics of the lanes of one gateway replica."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class LaneMetrics:
    """Show the open lanes to each pool, and count the batches that none of them carried."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._lanes = Gauge("ml_serve_lanes", "Open lanes to the replicas of a pool.", ("pool",), registry=registry)
        self._handle_batches = Counter(
            "ml_serve_handle_batches",
            "Batches that took Ray Serve's handle, because no lane led to the replica that should predict them.",
            ("pool",),
            registry=registry,
        )

    def opened(self, pool: str, lanes: int) -> None:
        """Note how many lanes to a pool are open."""
        self._lanes.labels(pool).set(lanes)

    def by_handle(self, pool: str) -> None:
        """Count a batch that no lane carried."""
        self._handle_batches.labels(pool).inc()
