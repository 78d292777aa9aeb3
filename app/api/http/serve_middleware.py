"""What stands before Ray Serve's own handling of an HTTP request, in each gateway replica.

Serve watches every request for its caller's departure and for its timeout with two tasks and a queue, about a tenth of
a gateway's CPU under load. `app.api.http.disconnects` and the deadlines of `app.api.http.exchange` do both cheaper,
so requests
are marked here as ones that Serve need not watch.
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
"""Key of the scope that holds the value of `TIMEOUT_HEADER` where Serve shall not see it."""

_ID_HEADER = b"x-request-id"
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class RequestIds:
    """Names for requests whose callers gave none: 32 hexadecimal digits, random ones for this object and a count.

    A random UUID for each, as Serve would make it, costs ten times as much.
    """

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:20].encode()
        self._count = itertools.count()

    def next(self) -> bytes:
        return b"%b%012x" % (self._prefix, next(self._count))


class Unwatched:
    """Pure ASGI middleware: takes departure and timeout of a request out of Serve's hands."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers: list[tuple[bytes, bytes]] = scope["headers"]
            kept, has_id = [], False
            for header in headers:
                name = header[0]
                if name == TIMEOUT_HEADER:
                    scope[TIMEOUT_KEY] = header[1]
                    continue
                has_id = has_id or name == _ID_HEADER
                kept.append(header)
            if not has_id:
                kept.append((_ID_HEADER, self._ids.next()))
            kept.append(_UNWATCHED)  # the last one of a name counts
            scope["headers"] = kept
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve puts before each of its HTTP servers, the first one innermost."""
    return [Middleware(Unwatched)]
