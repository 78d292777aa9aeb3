"""Middleware in front of Ray Serve's own handling of an HTTP request, in each gateway replica.

Serve watches every request for a disconnect and for its timeout with two tasks and a queue, about a tenth of a
gateway's CPU under load. The gateway does both itself at a lower cost (`app.api.http.disconnects` and
`Exchange.deadline`), so this middleware turns off Serve's.
"""

from __future__ import annotations

import itertools
import uuid

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

IMPORT_PATH = "app.api.http.serve_middleware:middlewares"
"""Value of ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""

TIMEOUT_HEADER = b"x-request-timeout-seconds"
TIMEOUT_KEY = "ml_serve.timeout"
"""Key of the scope that holds the value of `TIMEOUT_HEADER`, which is hidden from Serve."""

_ID_HEADER = b"x-request-id"
_DISABLE_WATCH = (b"x-request-disconnect-disabled", b"?1")


class DisableServeWatch:
    """Pure ASGI middleware that hides the timeout, disables Serve's disconnect watch and adds a missing request id.

    Ids are 32 hexadecimal digits: a random prefix of this object and a counter. A random UUID for each request, which
    Serve would make, costs ten times as much.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = uuid.uuid4().hex[:20].encode()
        self._count = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers, has_id = [], False
            for header in scope["headers"]:
                name = header[0]
                if name == TIMEOUT_HEADER:
                    scope[TIMEOUT_KEY] = header[1]
                    continue
                has_id = has_id or name == _ID_HEADER
                headers.append(header)
            if not has_id:
                headers.append((_ID_HEADER, b"%b%012x" % (self._prefix, next(self._count))))
            headers.append(_DISABLE_WATCH)  # Serve takes the last value of a name
            scope["headers"] = headers
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """List the middleware that Serve puts in front of each of its HTTP servers, innermost first."""
    return [Middleware(DisableServeWatch)]
