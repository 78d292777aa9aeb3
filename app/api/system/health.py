"""Health, liveness, readiness and metrics of a gateway replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import __version__
from app.api.bodies import ServeError
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route
from app.serving.callers import OBSERVE, OPEN
from app.serving.ports import ModelManager


async def own_metrics() -> bytes:
    """Return the metrics of this process in Prometheus' text format."""
    # starlette_exporter's handler leaves out collectors, such as the ledger's, if PROMETHEUS_MULTIPROC_DIR is set.
    return generate_latest()


class SystemEndpoints:
    """Handlers of ``/health``, ``/livez``, ``/readyz`` and ``/metrics``.

    Args:
        scrape: returns what ``/metrics`` answers.
    """

    def __init__(self, manager: ModelManager, scrape: Callable[[], Awaitable[bytes]] = own_metrics) -> None:
        self._manager = manager
        self._scrape = scrape

    def routes(self) -> list[Route]:
        route = partial(Route, tag="system", error=ServeError, scopes=OPEN)
        text = {"text/plain": {"schema": {"type": "string"}}}
        return [
            route("GET", "/health", self.health),
            route("GET", "/livez", self.alive),
            route("GET", "/readyz", self.ready),
            route("GET", "/metrics", self.metrics, answer=text, scopes=OBSERVE),
        ]

    async def health(self, exchange: Exchange) -> Reply:
        """Show the state of every part.

        The status is 503 if a part that all requests need does not answer.
        """
        parts = {"gateway": {"status": "ok", "version": __version__}, **await self._manager.health()}
        states = {part["status"] for part in parts.values()}
        if self._manager.ready and parts["pools"]["status"] == "ok":
            status = "ok" if states == {"ok"} else "degraded"
        else:
            status = "unavailable"
        body = {"status": status, "ready": self._manager.ready, "parts": parts}
        return Reply(dump(body), 503 if status == "unavailable" else 200)

    async def alive(self, exchange: Exchange) -> Reply:
        """Check that this replica runs."""
        return Reply(b'{"status":"alive"}')

    async def ready(self, exchange: Exchange) -> Reply:
        """Check that the models are loaded."""
        if self._manager.ready:
            return Reply(b'{"status":"ready"}')
        return Reply(b'{"status":"not ready","reason":"models are still loading; see /health"}', 503)

    async def metrics(self, exchange: Exchange) -> Reply:
        """Metrics of all replicas, in Prometheus' text format."""
        return Reply(await self._scrape(), content_type=CONTENT_TYPE_LATEST.encode())
