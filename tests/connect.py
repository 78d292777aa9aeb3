"""Clients that call the application in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.fakes import Fakes

Connect = Callable[[Fakes], httpx.AsyncClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Clients that call an application in this process."""
    async with AsyncExitStack() as stack:

        def connect(fakes: Fakes) -> httpx.AsyncClient:
            client = httpx.AsyncClient(transport=httpx.ASGITransport(fakes.app), base_url="http://gateway")
            stack.push_async_callback(client.aclose)
            return client

        yield connect
