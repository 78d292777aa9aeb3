"""Prometheus metrics of the release table, kept by each gateway replica: the same on all of them, a moment apart."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from app.serving.releases.table import ReleaseTable


class ReleaseMetrics:
    """Switches of aliases, what is held up, and how old the knowledge is."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        labels = ("model", "alias")
        self._switches = Counter(
            "ml_serve_alias_switches", "Times that an alias began to answer another version.", labels, registry=registry
        )
        self._counted: set[tuple[str, str]] = set()
        self._blocked = Gauge(
            "ml_serve_alias_blocked",
            "1 where an alias does not answer the version that the registry names, for a reason that /health tells.",
            labels,
            registry=registry,
        )
        self._stale_since = Gauge(
            "ml_serve_registry_stale_since_seconds",
            "Since when the model registry has not been read, in seconds since 1970; 0 while it is.",
            registry=registry,
        )

    def observe(self, before: ReleaseTable, table: ReleaseTable) -> None:
        """Take what has changed from one table to the next."""
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
