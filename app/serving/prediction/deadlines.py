"""Deadlines of requests, in event loop time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.errors import DeadlineExceeded


@asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Cancel what runs inside at a deadline. Raises `DeadlineExceeded` then."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise _late() from None


def expire_at(deadline: float, answer: asyncio.Future[Any]) -> asyncio.TimerHandle:
    """Make an answer raise `DeadlineExceeded` at a deadline. This costs a third of `until`. Cancel the timer."""
    return asyncio.get_running_loop().call_at(deadline, _expire, answer)


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_late())


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request was not answered before its deadline")
