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

    def find(self, scope: Scope) -> ASGIApp | None:
        """Return the endpoint of a hot POST request, None for others."""
        path: str = scope["path"]
        endpoint = self._exact.get(path)
        if endpoint is not None:
            return endpoint
        for pattern, one in self._patterns:
            found = pattern.match(path)
            if found is not None:
                scope["path_params"] = found.groupdict()
                return one
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self.find(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (hot or self._app)(scope, receive, send)
