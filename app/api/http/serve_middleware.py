"""Middleware in front of Ray Serve's own handling of an HTTP request, in each gateway replica.

Serve's handling (metadata, context, metrics, a semaphore) takes a third of a request's CPU under load, and the gateway
needs none of it for predictions. So hot requests pass it by, once the gateway has opened the `SHORTCUT`.

All other requests go through Serve, which decodes every header and answers in plain text with status 500 where one is
no UTF-8. It also watches the request for a disconnect and for its timeout with two tasks and a queue. The gateway does
all that itself (`app.api.http.disconnects` and `Exchange.deadline`), so Serve sees no header of the caller but its id.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

IMPORT_PATH = "app.api.http.serve_middleware:middlewares"
"""Value of ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""

HIDDEN_KEY = "ml_serve.headers"
"""Key of the scope that holds the caller's headers, where they are hidden from Serve."""

DIRECT_KEY = "ml_serve.direct"
"""Key of the scope of a request that passes Serve by."""

_ID_PREFIX, _ID_COUNT = uuid.uuid4().hex[:20], itertools.count()
_ID_HEADER = b"x-request-id"
_DISABLE_WATCH = (b"x-request-disconnect-disabled", b"?1")


def new_request_id() -> str:
    """Return 32 hexadecimal digits: a random prefix of this process and a counter.

    A random UUID for each request, which Serve would make, costs ten times as much.
    """
    return f"{_ID_PREFIX}{next(_ID_COUNT):012x}"


class Shortcut:
    """The way past Serve for hot requests.

    Attributes:
        ongoing: requests on their way; Serve does not count them.
    """

    def __init__(self) -> None:
        self.ongoing = 0
        self._find: Callable[[Scope], ASGIApp | None] = lambda _: None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, find: Callable[[Scope], ASGIApp | None]) -> None:
        """Let requests pass for which `find` returns what answers them, on this event loop.

        Outside its throughput-optimized mode Serve runs the application on another loop than its server.
        """
        self._find, self._loop = find, asyncio.get_running_loop()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request, or return False."""
        application = self._find(scope) if asyncio.get_running_loop() is self._loop else None
        if application is None:
            return False
        scope[DIRECT_KEY] = True
        self.ongoing += 1
        try:
            await application(scope, receive, send)
        finally:
            self.ongoing -= 1
        return True


SHORTCUT = Shortcut()
"""The one of this process, which has one gateway replica."""


class HideHeaders:
    """Pure ASGI middleware that hides a request's headers from Serve, and adds a request id where it has none.

    Hot requests take the `SHORTCUT`. An id that is no ASCII is replaced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "POST" and await SHORTCUT.answer(scope, receive, send):
                return
            headers: list[tuple[bytes, bytes]] = scope["headers"]
            request_id = None
            for name, value in headers:
                if name == _ID_HEADER:
                    request_id = value
            if request_id is None or not request_id.isascii():
                request_id = new_request_id().encode()
                headers = [*headers, (_ID_HEADER, request_id)]  # the last value of a name counts
            scope[HIDDEN_KEY] = headers
            scope["headers"] = [(_ID_HEADER, request_id), _DISABLE_WATCH]
        await self._app(scope, receive, send)


def with_hidden_headers(app: ASGIApp) -> ASGIApp:
    """Give the application the headers that `HideHeaders` has hidden."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if HIDDEN_KEY in scope:
            scope["headers"] = scope[HIDDEN_KEY]
        await app(scope, receive, send)

    return call


def middlewares() -> list[Middleware]:
    """List the middleware that Serve puts in front of each of its HTTP servers, innermost first."""
    return [Middleware(HideHeaders)]
