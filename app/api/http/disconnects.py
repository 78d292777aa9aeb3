"""Cancel the work for callers that disconnect before they are answered, and for those that do not send their body.

`app.api.http.routing` enters every request. Most are answered within a few milliseconds, so only a request that takes
longer gets a task that waits for the end of its connection.
"""

from __future__ import annotations

import asyncio

from app.api.http.exchange import Exchange

_WATCH_AFTER_S = 0.1


class DisconnectWatch:
    """Watches the slow ones of the requests in progress. One per event loop; not thread-safe.

    One timer looks at all requests, because a timer for each costs about 2 % of a request.

    Args:
        body_s: seconds in which a body has to arrive.
    """

    def __init__(self, body_s: float) -> None:
        self._body_s = body_s
        self._unwatched: dict[Exchange, asyncio.Task[object]] = {}
        self._watchers: dict[Exchange, asyncio.Task[None]] = {}
        self._timer_runs = False

    def enter(self, exchange: Exchange) -> asyncio.Task[object]:
        """Begin a request. Returns the current task, which is cancelled if the caller disconnects or is late."""
        task = asyncio.current_task()
        assert task is not None
        self._unwatched[exchange] = task
        if not self._timer_runs:
            self._timer_runs = True
            asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._watch_slow)
        return task

    def leave(self, exchange: Exchange) -> None:
        """End a request."""
        if self._unwatched.pop(exchange, None) is None:
            watcher = self._watchers.pop(exchange, None)
            if watcher is not None:
                watcher.cancel()

    def _watch_slow(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time() - _WATCH_AFTER_S
        # While its body is received, a request notices a disconnect itself.
        for exchange in [one for one in self._unwatched if one.received <= before and one.body_read]:
            task = self._unwatched.pop(exchange)
            self._watchers[exchange] = loop.create_task(self._watch(exchange, task))
        late = loop.time() - self._body_s
        for exchange in [one for one in self._unwatched if one.received <= late and one.awaits_body]:
            exchange.late = True
            self._unwatched.pop(exchange).cancel()
        self._timer_runs = bool(self._unwatched)
        if self._timer_runs:
            loop.call_later(_WATCH_AFTER_S, self._watch_slow)

    async def _watch(self, exchange: Exchange, task: asyncio.Task[object]) -> None:
        await exchange.wait_disconnected()
        exchange.disconnected = True
        task.cancel()
