"""Dynamic batching: parts that arrive while calls are in flight share the next call.

An idle model answers at once; a busy one forms large batches by itself. The service keeps one `Batcher` per model
version and one per feature source. `app.serving.batching.queue` orders the parts and `app.serving.batching.concurrency`
bounds the batches in flight.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, NamedTuple, TypeVar, cast

from app.errors import DeadlineExceeded, InvalidRequest, ModelFailed, ReplicaDied, ServingError
from app.serving.batching.concurrency import InFlightBound
from app.serving.batching.limits import BatchLimits
from app.serving.batching.outflow import Outflows
from app.serving.batching.queue import LARGE_SHARE, Line, Part, Total
from app.serving.rows import WrongRowCount

P = TypeVar("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_FULL_IN_FLIGHT = 4
"""Batches that may be in flight while at least half a batch waits, whatever the learned bound is. Holding them back
would hardly enlarge them, and while one computes, others are packed, sent and unpacked: four connections that send
1,000 rows of 100 columns each got 219 requests/s instead of 103."""


class AnsweredBatch(NamedTuple):
    """A batch that was answered: its parts and rows, the wait of its oldest part, the duration of the call, and the
    bound on batches in flight."""

    parts: int
    rows: int
    waited_s: float
    seconds: float
    in_flight_bound: int


class Batcher(Generic[P, R]):
    """Collects parts of concurrent requests into calls of `call`. Create and use it on one event loop.

    A batch runs in an empty `contextvars.Context`. Ray Serve finds the calls of a request through context variables and
    cancels them when the caller disconnects; a disconnect must not cancel the parts of other callers.

    Args:
        call: answers a batch with one result per part, in order. The batcher cancels it when the last deadline of its
            parts has passed.
        limits: returns the current limits; called before each batch, so they may change at any time.
        answered: called for every answered batch.
        of_one: errors that a single part may cause. After one of them the batcher halves the batch until the faulty
            part fails alone. Any other error fails the whole batch. After `WrongRowCount` each part is
            answered alone.

    Attributes:
        max_rows, max_bytes: the current limits of one batch.
    """

    def __init__(
        self,
        call: Callable[[Sequence[P]], Awaitable[Sequence[R]]],
        limits: Callable[[], BatchLimits],
        answered: Callable[[AnsweredBatch], None] = lambda _: None,
        of_one: tuple[type[ServingError], ...] = (ModelFailed, ReplicaDied, InvalidRequest),
    ) -> None:
        self._of_one: tuple[type[Exception], ...] = (WrongRowCount, *of_one)
        self._call = call
        self._limits = limits
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._lines: dict[Hashable, Line[P, R]] = {}
        self._last_group: Hashable = None
        self._last_line: Line[P, R] | None = None
        self._waiting = Total()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launches = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        first = limits()
        self._bound = InFlightBound(first.max_in_flight)
        self._outflows = Outflows(self._waiting)
        self._free = 0
        self._free_for_full = 0
        self._adopt(first)

    @property
    def in_flight(self) -> int:
        """Batches in flight."""
        return len(self._tasks)

    @property
    def in_flight_bound(self) -> int:
        """Batches that may be in flight now."""
        return self._bound.value

    @property
    def waiting_rows(self) -> int:
        """Rows of the parts that wait for a slot."""
        return self._waiting.rows

    def oldest_wait_s(self, now: float) -> float:
        """Return how long the oldest waiting part has waited, in seconds; 0 if none waits.

        Args:
            now: event loop time.
        """
        return max((now - line.oldest_since() for line in self._lines.values() if line.live), default=0.0)

    def submit(
        self, payload: P, *, group: Hashable, rows: int, nbytes: int, deadline: float, admitted: bool = False
    ) -> asyncio.Future[R]:
        """Queue a part and return the future of its result. Cancel the future to withdraw the part.

        Args:
            group: only parts of the same group share a batch.
            deadline: event loop time after which the part is no longer sent.
            admitted: whether an earlier part of the request has been accepted.

        Raises:
            Overloaded: at the present speed, the rows that wait take longer than that.
        """
        is_large = rows >= self._large_rows
        now = self._now()
        if not admitted:
            self._outflows.check(is_large, deadline, now)
        part: Part[P, R] = Part(loop=self._loop)
        part.payload = payload
        part.rows = rows
        part.nbytes = nbytes
        part.is_large = is_large
        part.deadline = deadline
        part.since = now
        # Most requests of a model have the same layout object, whose hash is expensive.
        line = self._last_line if group is self._last_group else None
        if line is None or not line.live:
            line = self._line(group)
        line.append(part)
        if self._may_send():
            if not self._scheduled:
                self._schedule()
            elif self._timer is not None and self._waiting.rows >= self.max_rows:
                self._timer.cancel()
                self._dispatch_soon()
        return part

    def _may_send(self) -> bool:
        return self._free > 0 or (self._free_for_full > 0 and self._waiting.rows >= self._half_rows)

    def _count_free(self) -> None:
        in_flight = len(self._tasks)
        self._free = self._bound.value - in_flight
        measuring = self._bound.rows_limit is not None
        self._free_for_full = 0 if measuring else min(_FULL_IN_FLIGHT, self._bound.most) - in_flight

    def _line(self, group: Hashable) -> Line[P, R]:
        line = self._lines.get(group)
        if line is None:
            line = self._lines[group] = Line(self._waiting)
        self._last_group, self._last_line = group, line
        return line

    def _schedule(self) -> None:
        self._scheduled = True
        if self._wait_s and self._waiting.rows < self.max_rows:
            now = self._now()
            due = now + self._wait_s - self.oldest_wait_s(now)
            if due > now:
                self._timer = self._loop.call_at(due, self._dispatch, context=Context())
                return
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        # In the next turn of the loop, so that everything that is ready in this one joins.
        self._timer = None
        self._loop.call_soon(self._dispatch, context=Context())

    def _dispatch(self) -> None:
        self._scheduled = False
        self._timer = None
        self._adopt(self._limits())
        now = self._now()
        while self._lines and self._may_send():
            parts = self._take(now)
            if parts:
                self._launches += 1
                alone = 0 if self._tasks else self._launches
                task = self._loop.create_task(self._run(parts, alone), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._done)
                self._count_free()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._count_free()
        if self._lines and self._may_send() and not self._scheduled:
            self._schedule()

    def _adopt(self, limits: BatchLimits) -> None:
        self.max_rows = limits.max_rows
        self._half_rows = max(1, limits.max_rows // 2)
        self._large_rows = max(2, limits.max_rows // LARGE_SHARE)
        self.max_bytes = limits.max_bytes
        self._wait_s = limits.wait_s
        self._bound.most = limits.max_in_flight
        self._count_free()

    def _take(self, now: float) -> list[Part[P, R]]:
        group = next(iter(self._lines))
        line = self._lines.pop(group)
        limit = self._bound.rows_limit
        parts = line.take(now, self.max_rows if limit is None else min(limit, self.max_rows), self.max_bytes)
        self._outflows.taken(now)
        if line.live:
            self._lines[group] = line
        elif line is self._last_line:
            self._last_group = self._last_line = None
        return parts

    async def _run(self, parts: list[Part[P, R]], launch: int) -> None:
        """Answer a batch. `launch` is its number if it started alone, else 0."""
        started = self._now()
        complete = await self._answer(parts)
        now = self._now()
        if not complete:
            self._bound.failed(now)
            return
        rows = sum([part.rows for part in parts])
        limiting = self._free <= 0 and self._waiting.rows > 0
        self._bound.finished(rows, now - started, alone=launch == self._launches, limiting=limiting, now=now)

    async def _answer(self, parts: list[Part[P, R]]) -> bool:
        """Answer parts in one call, or in several if that fails. Returns whether one call was enough."""
        parts = [part for part in parts if not part.done()]
        if not parts:
            return False
        payloads = [cast(P, part.payload) for part in parts]
        started = self._now()
        try:
            async with asyncio.timeout_at(max([part.deadline for part in parts])):
                results = await self._call(payloads)
            if len(results) != len(parts):
                raise RuntimeError(f"{len(results)} results for {len(parts)} parts")  # noqa: TRY301 - handled below like any bug of `call`
        except TimeoutError:
            _fail(parts, DeadlineExceeded("the model did not answer before the deadline"))
            return False
        except self._of_one as error:
            if len(parts) == 1:
                self._outflows.left(parts, parts[0].rows, self._now())
                _fail(parts, error)
                return False
            # In halves, but one by one if each retry may kill a replica, or where the model is not row-wise.
            size = 1 if isinstance(error, ReplicaDied | WrongRowCount) else (len(parts) + 1) // 2
            for start in range(0, len(parts), size):
                await self._answer(parts[start : start + size])
            return False
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("batch failed: parts=%d", len(parts))
            self._outflows.left(parts, sum([part.rows for part in parts]), self._now())
            _fail(parts, error)
            return False
        now = self._now()
        rows = sum([part.rows for part in parts])
        self._outflows.left(parts, rows, now)
        for part, result in zip(parts, results, strict=True):
            if not part.done():
                part.set_result(result)
        # A large part may precede small ones that are older; within each kind the first is the oldest.
        since = min(parts[0].since, parts[1].since) if len(parts) > 1 else parts[0].since
        self._answered(AnsweredBatch(len(parts), rows, started - since, now - started, self._bound.value))
        return True


def _fail(parts: Sequence[Part[P, R]], error: Exception) -> None:
    for part in parts:
        if not part.done():
            # One copy each: raising a shared exception in many tasks would chain their tracebacks.
            part.set_exception(copy.copy(error))
