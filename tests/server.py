"""Run a real HTTP server: uvicorn in a thread, on a free port."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

_START_S = 60.0


class _Prompt(uvicorn.Server):
    """Ends at once: uvicorn looks ten times a second only, and every test would wait for that."""

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter // 10):  # it counts tenths of a second
            counter += 1
            await asyncio.sleep(0.01)


class Server:
    """Serves `app` inside a `with` block. Tests may replace `app` at any time and share one server."""

    def __init__(self, app: ASGIApp | None = None) -> None:
        self.app = app
        config = uvicorn.Config(self._answer, port=0, interface="asgi3", lifespan="off", ws="none", log_config=None)
        self._server = _Prompt(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def port(self) -> int:
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True  # clients may keep their connections
        self._thread.join(_START_S)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)
