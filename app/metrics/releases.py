"""Prometheus metrics of the release table. All gateway replicas export the same values, a moment apart."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from app.serving.releases.table import ReleaseTable


class ReleaseMetrics:
    """Count rollouts, and show blocked aliases and outages of the registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        labels = ("model", "alias")
        self._switches = Counter(
            "ml_serve_alias_switches",
            "Rollouts and rollbacks: times that an alias changed its live version.",
            labels,
            registry=registry,
        )
        self._counted: set[tuple[str, str]] = set()
        self._blocked = Gauge(
            "ml_serve_alias_blocked",
            "1 where an alias does not serve the version that the registry names; /health shows the reason.",
            labels,
            registry=registry,
        )
        self._stale_since = Gauge(
            "ml_serve_registry_stale_since_seconds",
            "Time of the last successful registry poll before an outage, in seconds since 1970; 0 without an outage.",
            registry=registry,
        )

    def observe(self, before: ReleaseTable, table: ReleaseTable) -> None:
        """Count the changes from one release table to the next."""
        self._stale_since.set(table.stale_since or 0)
        self._blocked.clear()
        for name, release in table.releases.items():
            for alias in release.blocked:
                self._blocked.labels(name, alias).set(1)
            known = before.releases.get(name)
            if known is None or known.aliases == release.aliases:
                continue
            for alias, version in release.aliases.items():
                if known.aliases.get(alias, version) != version:
                    self._switches.labels(name, alias).inc()
                    self._counted.add((name, alias))
        for name, alias in list(self._counted):
            if name not in table.releases or alias not in table.releases[name].aliases:
                self._switches.remove(name, alias)
                self._counted.discard((name, alias))
