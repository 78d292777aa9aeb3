"""Dynamic batching: what arrives while a call is in flight leaves together in the next one.

An idle model answers at once, since a free slot takes whatever is queued; a busy one forms large batches by itself.
The service keeps one `Batcher` per model version and one per feature source.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from app.errors import DeadlineExceeded, InvalidRequest, ModelFailed, ReplicaDied, ServingError

P = TypeVar("P")
R = TypeVar("R")

log = logging.getLogger(__name__)


class _Item(Generic[P, R]):
    __slots__ = ("deadline", "future", "nbytes", "part", "rows")

    def __init__(self, part: P, rows: int, nbytes: int, deadline: float, future: asyncio.Future[R]) -> None:
        self.part: P | None = part
        self.rows = rows
        self.nbytes = nbytes
        self.deadline = deadline
        self.future = future
        future.add_done_callback(self._drop)

    def _drop(self, _: asyncio.Future[R]) -> None:
        # Answered, or its caller has gone: what it carried is held no longer, even while the item still waits its turn.
        self.part = None


class Batcher(Generic[P, R]):
    """Collects parts of concurrent requests into calls of `call`.

    A batch belongs to nobody: it runs in an empty `contextvars.Context`, because Ray Serve finds the calls that a
    request made through context variables and cancels them when that request's caller goes away. A caller that leaves
    loses its own part only.

    Args:
        call: answers a batch, one result per part in order. An error that one part may have
            caused (`ModelFailed`, `ReplicaDied`, `InvalidRequest`) makes the batcher halve the batch until the part at
            fault fails alone; any other error fails all of them. It is cancelled when the last part's deadline passes.
        max_rows, max_bytes: bounds of one batch. A part over a bound goes alone.
        max_in_flight: calls under way at the same time.
        wait_s: seconds that the first part of a batch may wait for company.
    """

    def __init__(
        self,
        call: Callable[[Sequence[P]], Awaitable[Sequence[R]]],
        *,
        max_rows: int,
        max_bytes: int,
        max_in_flight: int,
        wait_s: float = 0.0,
    ) -> None:
        self._call = call
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_in_flight = max_in_flight
        self._wait_s = wait_s
        self._queues: dict[Hashable, deque[_Item[P, R]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @property
    def in_flight(self) -> int:
        """Calls under way now."""
        return len(self._tasks)

    @property
    def queued(self) -> int:
        """Parts that wait for a slot."""
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, part: P, *, group: Hashable, rows: int, nbytes: int, deadline: float) -> asyncio.Future[R]:
        """Queue a part; only parts of the same `group` share a batch. Cancel the future to withdraw it.

        Args:
            deadline: event loop time after which the part is not sent any more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = deque()
        queue.append(_Item(part, rows, nbytes, deadline, future))
        if not self._scheduled and len(self._tasks) < self._max_in_flight:
            self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: what else is ready in this turn of the loop shall join.
        self._scheduled = True
        if self._wait_s:
            loop.call_later(self._wait_s, self._dispatch, context=Context())
        else:
            loop.call_soon(self._dispatch, context=Context())

    def _dispatch(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._queues and len(self._tasks) < self._max_in_flight:
            items = self._take(loop.time())
            if items:
                task = loop.create_task(self._answer(items), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queues and not self._scheduled:
            self._schedule(asyncio.get_running_loop())

    def _take(self, now: float) -> list[_Item[P, R]]:
        """Parts of the group that has waited longest, up to the bounds; its rest goes to the end of the line."""
        group = next(iter(self._queues))
        queue = self._queues.pop(group)
        items: list[_Item[P, R]] = []
        rows = nbytes = 0
        while queue:
            item = queue[0]
            if item.future.done():  # its caller has gone
                queue.popleft()
                continue
            if item.deadline <= now:
                queue.popleft()
                item.future.set_exception(DeadlineExceeded("the deadline passed while the request was queued"))
                continue
            if items and (rows + item.rows > self._max_rows or nbytes + item.nbytes > self._max_bytes):
                break
            rows += item.rows
            nbytes += item.nbytes
            items.append(queue.popleft())
        if queue:
            self._queues[group] = queue
        return items

    async def _answer(self, items: list[_Item[P, R]]) -> None:
        items = [item for item in items if not item.future.done()]
        parts = [item.part for item in items if item.part is not None]
        if not items:
            return
        try:
            async with asyncio.timeout_at(max(item.deadline for item in items)):
                results = await self._call(parts)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} parts")  # noqa: TRY301 - nobody may wait for ever
        except TimeoutError:
            _fail(items, DeadlineExceeded("the model did not answer before the deadline"))
        except (ModelFailed, ReplicaDied, InvalidRequest) as error:
            if len(items) == 1:
                _fail(items, error)
                return
            # By halves, but singly where each further try may cost a replica.
            size = 1 if isinstance(error, ReplicaDied) else (len(items) + 1) // 2
            for start in range(0, len(items), size):
                await self._answer(items[start : start + size])
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("a batch of %d requests failed", len(items))
            _fail(items, error)
        else:
            for item, result in zip(items, results, strict=True):
                if not item.future.done():
                    item.future.set_result(result)


def _fail(items: Sequence[_Item[P, R]], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            # A copy each: raising one exception in many tasks would chain all their tracebacks.
            item.future.set_exception(copy.copy(error))
