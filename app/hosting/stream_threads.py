"""Threads for streams: each runs one blocking iterator and hands its items to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from app.errors import Overloaded

T = TypeVar("T")

_AHEAD = 16
"""Items that a thread may be ahead of its reader. A slow reader slows down the iterator, not the memory."""
_RETRY_AFTER_S = 1


class _End(NamedTuple):
    error: BaseException | None


class StreamThreads:
    """A bounded number of threads for long calls. Use it on one event loop.

    A thread is busy until its work has ended, also if nobody waits for it any more.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="stream")
        self._work: set[Future[Any]] = set()
        self._relays: set[_Relay[Any]] = set()

    @property
    def busy(self) -> float:
        """Calls in progress or waiting, as a share of the threads."""
        return len(self._work) / self._count

    async def call(self, function: Callable[[], T], left: Callable[[Future[Any]], None] = lambda _: None) -> T:
        """Run a function; wait for a thread if all are busy. `left` is called if the caller leaves while it runs."""
        work = self._submit(function)
        try:
            return await asyncio.wrap_future(work)
        finally:
            if work.running():
                left(work)

    async def iterate(
        self, start: Callable[[], Iterator[T]], left: Callable[[Future[Any]], None] = lambda _: None
    ) -> AsyncGenerator[T]:
        """Yield the items of an iterator that `start` returns, both of which run in one thread.

        Closing the generator closes the iterator in its thread, once it has yielded its next item.

        Raises:
            Overloaded: all threads are busy.
            Exception: whatever the iterator raises.
        """
        if len(self._work) >= self._count:
            raise Overloaded(
                f"all {self._count} stream threads of the replica are busy; try again in {_RETRY_AFTER_S} s",
                {"retry_after_s": _RETRY_AFTER_S},
            )
        relay = _Relay(start)
        self._relays.add(relay)
        work = self._submit(relay.run)
        try:
            while not isinstance(item := await relay.take(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            relay.stop()
            self._relays.discard(relay)
            if work.running():
                left(work)

    def close(self) -> None:
        """Stop all iterators at their next item, and end the threads."""
        for relay in self._relays:
            relay.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        work = self._threads.submit(function)
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        return work


class _Relay(Generic[T]):
    """Carries the items of one iterator from its thread to the event loop."""

    def __init__(self, start: Callable[[], Iterator[T]]) -> None:
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(_AHEAD)
        self._stopped = False
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()

    async def take(self) -> T | _End:
        item = await self._items.get()
        self._room.release()
        return item

    def stop(self) -> None:
        self._stopped = True
        self._room.release()

    def run(self) -> None:
        """Iterate to the end, or until `stop`. Runs in a thread."""
        error: BaseException | None = None
        try:
            self._iterate()
        except BaseException as raised:
            error = raised
        self._put(_End(error))

    def _iterate(self) -> None:
        items = None if self._stopped else self._start()
        if items is None:
            return
        try:
            for item in items:
                self._room.acquire()
                if self._stopped:
                    return
                self._put(item)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _put(self, item: T | _End) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the event loop has ended, and its readers with it
            self._stopped = True
