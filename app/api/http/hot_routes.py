"""Hot routes: predictions go straight to their endpoint, ahead of FastAPI's middleware and router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.routing import Endpoint


class HotRoutes:
    """ASGI application: hot endpoints, and `app` for every other request. `openapi` describes all routes."""

    def __init__(self, app: ASGIApp, openapi: Callable[[], dict[str, Any]], hot: Sequence[Endpoint]) -> None:
        self._app = app
        self._exact = {endpoint.path: endpoint.app for endpoint in hot if not endpoint.param_convertors}
        self._patterns = [(endpoint.path_regex, endpoint.app) for endpoint in hot if endpoint.param_convertors]
        self.openapi = openapi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            endpoint = self._exact.get(path)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
            for pattern, endpoint in self._patterns:
                found = pattern.match(path)
                if found is not None:
                    scope["path_params"] = found.groupdict()
                    await endpoint(scope, receive, send)
                    return
        await self._app(scope, receive, send)
