"""Threads that models share: a model whose calls hang keeps no other one waiting for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_SLOW_S = 1.0
"""Seconds after which a call gives its place to calls for other keys."""

_SPARE = 16
"""Slow calls beyond the places. With more of them, all further calls wait."""


class SharedThreads:
    """Runs blocking calls in a few threads. Use it on one event loop.

    At most `places` calls run at the same time, and at most as many for one key. A call that takes longer than a second
    no longer counts for the other keys: their calls run beside it.

    Args:
        places: calls at the same time.
        name: prefix of the threads' names.
    """

    def __init__(self, places: int, name: str) -> None:
        self._places = places
        self._threads = ThreadPoolExecutor(places + _SPARE, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._running: dict[Future[Any], tuple[Hashable, float]] = {}
        self._of_key: Counter[Hashable] = Counter()
        self._waiting: list[_Waiting[Any]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no call runs."""
        return not self._running

    async def run(
        self,
        key: Hashable,
        call: Callable[[], T],
        timeout_s: float | None = None,
        begins: Callable[[], None] | None = None,
        left: Callable[[Future[T]], None] | None = None,
    ) -> T:
        """Run a call when it has a place. If the caller leaves, it runs to its end.

        Args:
            begins: called on the event loop just before the call begins.
            left: called if the caller leaves while the call goes on.

        Raises:
            TimeoutError: it takes longer than `timeout_s`, without the wait for a place.
        """
        work = self._start(key, call, begins) or await self._turn(key, call, begins)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(work)
        finally:
            if left is not None and not work.done():
                left(work)

    def close(self) -> None:
        """End the threads after their current calls."""
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown(cancel_futures=True)

    async def _turn(self, key: Hashable, call: Callable[[], T], begins: Callable[[], None] | None) -> Future[T]:
        waiting = _Waiting(key, call, begins, asyncio.get_running_loop())
        self._waiting.append(waiting)
        self._admit()  # a call may have ended meanwhile
        try:
            return await waiting.work
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiting)

    def _start(self, key: Hashable, call: Callable[[], T], begins: Callable[[], None] | None) -> Future[T] | None:
        """Start a call and return it, None if it has no place."""
        with self._lock:
            slow = time.monotonic() - _SLOW_S
            counted = sum(started > slow for _, started in self._running.values())
            if max(counted, self._of_key[key]) >= self._places or len(self._running) >= self._places + _SPARE:
                return None
            if begins is not None:
                begins()
            work = self._threads.submit(call)
            self._running[work] = (key, time.monotonic())
            self._of_key[key] += 1
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda work: self._ended(work, loop))
        return work

    def _ended(self, work: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Give the place away. Runs in the call's thread, so that the event loop wakes only for the result."""
        with self._lock:
            key, _ = self._running.pop(work)
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]
        if self._waiting:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(self._admit)

    def _admit(self) -> None:
        """Start the waiting calls that have a place, in their order, and look again when a call has become slow."""
        for waiting in [*self._waiting]:
            work = self._start(waiting.key, waiting.call, waiting.begins) if not waiting.work.done() else None
            if work is not None:
                self._waiting.remove(waiting)
                waiting.work.set_result(work)
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SLOW_S / 4, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._admit()


class _Waiting(Generic[T]):
    """A call without a place; `work` is it once it runs."""

    def __init__(
        self,
        key: Hashable,
        call: Callable[[], T],
        begins: Callable[[], None] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.key = key
        self.call = call
        self.begins = begins
        self.work: asyncio.Future[Future[T]] = loop.create_future()
