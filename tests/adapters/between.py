"""HTTP proxy in front of a real server, for tests that change its answers."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Step = Callable[[Request, httpx.Response | None], Response | None]


def pass_on(request: Request, answer: httpx.Response | None) -> None:
    """Change nothing."""


class Between:
    """ASGI app that forwards everything to `upstream`.

    It calls `step` with each request before it forwards it, and again with the answer. If `step` returns a response,
    the client gets that one instead.
    """

    def __init__(self, upstream: str, step: Step = pass_on) -> None:
        self._upstream = upstream
        self.step = step

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await (self.step(request, None) or await self._passed(request))(scope, receive, send)

    async def _passed(self, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        target = f"{self._upstream}{request.url.path}"
        query = request.url.query.encode() or None
        async with httpx.AsyncClient(timeout=30) as client:
            url = httpx.URL(target, query=query)
            answer = await client.request(request.method, url, headers=headers, content=await request.body())
        return self.step(request, answer) or Response(
            answer.content, answer.status_code, media_type=answer.headers.get("content-type")
        )
