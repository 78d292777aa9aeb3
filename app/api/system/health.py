"""Health, liveness and readiness of a gateway replica."""

from __future__ import annotations

from app import __version__
from app.api.bodies import ServeError
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route
from app.serving.ports import ModelManager


class SystemEndpoints:
    """Handlers of ``/health``, ``/livez`` and ``/readyz``."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        handlers = {"/health": self.health, "/livez": self.alive, "/readyz": self.ready}
        return [Route("GET", path, handler, "system", ServeError) for path, handler in handlers.items()]

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
