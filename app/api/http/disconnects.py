"""Callers that leave before they are answered: what is done for them is given up.

`app.api.http.routing` enters every request. Most are answered within a few milliseconds, so only those that take
longer are
watched, each by a task that waits for the connection's end.
"""

from __future__ import annotations

import asyncio

from app.api.http.exchange import Exchange

_WATCHED_AFTER_S = 0.1


class Departures:
    """Watches the slow ones among the requests in progress. Not thread-safe: it lives on the event loop."""

    def __init__(self) -> None:
        self._young: dict[Exchange, asyncio.Task[object]] = {}
        self._watches: dict[Exchange, asyncio.Task[None]] = {}
        self._ticking = False

    def enter(self, exchange: Exchange) -> asyncio.Task[object]:
        """Begin; the task that answers the request is the current one, and is cancelled when the caller leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._young[exchange] = task
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(_WATCHED_AFTER_S, self._tick)
        return task

    def leave(self, exchange: Exchange) -> None:
        """End: the request has its answer."""
        if self._young.pop(exchange, None) is None:
            watch = self._watches.pop(exchange, None)
            if watch is not None:
                watch.cancel()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time() - _WATCHED_AFTER_S
        for exchange in [one for one in self._young if one.received <= before and one.has_body]:
            task = self._young.pop(exchange)
            self._watches[exchange] = loop.create_task(self._watch(exchange, task))
        self._ticking = bool(self._young)
        if self._ticking:
            loop.call_later(_WATCHED_AFTER_S, self._tick)

    async def _watch(self, exchange: Exchange, task: asyncio.Task[object]) -> None:
        await exchange.disconnected()
        if self._watches.pop(exchange, None) is not None:
            exchange.is_abandoned = True
            task.cancel()
