"""Hot routes: requests for predictions go straight to their endpoints, ahead of FastAPI's router."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.routing import Endpoint


class Front:
    """Sends requests of hot routes to their endpoints and everything else to `app`."""

    def __init__(self, app: ASGIApp, documented: FastAPI, hot: Sequence[Endpoint]) -> None:
        self._app = app
        self.openapi = documented.openapi
        self._exact = {one.route.path: one for one in hot if "{" not in one.route.path}
        self._patterns = [(one.route.prefix, one.route.suffix, one) for one in hot if "{" in one.route.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            endpoint = self._exact.get(path)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
            for prefix, suffix, endpoint in self._patterns:
                if path.startswith(prefix) and path.endswith(suffix):
                    await endpoint(scope, receive, send)
                    return
        await self._app(scope, receive, send)
