"""The order in which waiting parts of requests enter batches. `app.serving.batching.batcher` uses it.

Small parts go first, so that one caller's many rows do not delay another caller's single row. Large parts get a
guaranteed share of the batches, so that they always progress.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Generic, TypeVar

from app.errors import DeadlineExceeded

P = TypeVar("P")
R = TypeVar("R")

LARGE_SHARE = 4
"""A part of at least this fraction of a batch is large. While small parts wait, large ones get this fraction of each
batch: a large request progresses at a quarter of the speed that it has alone."""


class Part(asyncio.Future[R], Generic[P, R]):
    """The rows of one request, or a piece of them, and the future of their result.

    Payload and future are one object, because it is created for every request: one object is faster than two, and
    cancellation needs no callback.
    """

    __slots__ = ("deadline", "is_large", "line", "nbytes", "payload", "rows", "since")

    payload: P | None
    """What is sent; None after cancellation, to free its memory."""
    rows: int
    nbytes: int
    is_large: bool
    deadline: float
    since: float
    """Event loop time of its submission."""
    line: Line[P, R] | None
    """Where it waits; None once it is in flight."""

    def cancel(self, msg: object = None) -> bool:
        """Withdraw the part."""
        self._leave()
        return super().cancel(msg)

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """Fail the part, and withdraw it if it waits."""
        self._leave()
        super().set_exception(exception)

    def _leave(self) -> None:
        if self.line is not None:
            self.line.withdraw(self)
        self.payload = None


class Total:
    """Rows that wait in all lines of a batcher, and those among them that belong to large parts."""

    __slots__ = ("large_rows", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.large_rows = 0


class Line(Generic[P, R]):
    """Parts that may share a batch: one lane of small parts, one of large parts."""

    __slots__ = ("_credit", "_large", "_small", "_total", "live")

    def __init__(self, total: Total) -> None:
        self._small: deque[Part[P, R]] = deque()
        self._large: deque[Part[P, R]] = deque()
        self._credit = 0
        self._total = total
        self.live = 0
        """Parts that are not withdrawn. Withdrawn ones stay in their lane and are skipped."""

    def append(self, part: Part[P, R]) -> None:
        """Add a part to the end of its lane."""
        part.line = self
        self.live += 1
        self._total.rows += part.rows
        if part.is_large:
            self._total.large_rows += part.rows
            self._large.append(part)
        else:
            self._small.append(part)

    def withdraw(self, part: Part[P, R]) -> None:
        """Stop counting a part, which no longer waits here."""
        part.line = None
        self.live -= 1
        self._total.rows -= part.rows
        if part.is_large:
            self._total.large_rows -= part.rows

    def oldest_since(self) -> float:
        """Return the submission time of the oldest waiting part; infinity if none waits."""
        since = math.inf
        for lane in (self._small, self._large):
            while lane and lane[0].line is None:
                lane.popleft()
            if lane and lane[0].since < since:
                since = lane[0].since
        return since

    def take(self, now: float, max_rows: int, max_bytes: int) -> list[Part[P, R]]:
        """Remove and return the parts of the next batch, none if all deadlines have passed.

        At most one large part enters a batch beside small ones, as its first. A part that exceeds a limit by itself
        goes alone. Parts past their deadline fail with `DeadlineExceeded`.
        """
        if not self._large:
            return self._fill([], self._small, now, max_rows, max_bytes)
        small, large = self._first(self._small, now), self._first(self._large, now)
        if small is None or large is None:
            self._credit = 0
            return self._fill([], self._small if large is None else self._large, now, max_rows, max_bytes)
        # Deficit round robin, in units of 1 / LARGE_SHARE row: a quarter of a tiny batch is not zero.
        self._credit += max_rows
        cost = LARGE_SHARE * min(large.rows, max_rows)
        if self._credit < cost:
            return self._fill([], self._small, now, max_rows, max_bytes)
        self._credit -= cost
        self._large.popleft()
        self.withdraw(large)
        return self._fill([large], self._small, now, max_rows, max_bytes)

    def _first(self, lane: deque[Part[P, R]], now: float) -> Part[P, R] | None:
        """Return the first part that can be sent. Drops withdrawn and expired ones before it."""
        while lane:
            part = lane[0]
            if part.line is not None:
                if part.deadline > now:
                    return part
                part.set_exception(DeadlineExceeded("the deadline passed while the request was queued"))
            lane.popleft()
        return None

    def _fill(
        self, parts: list[Part[P, R]], lane: deque[Part[P, R]], now: float, max_rows: int, max_bytes: int
    ) -> list[Part[P, R]]:
        """Add parts of a lane up to the limits. Inlined, because it runs for every request."""
        already = len(parts)
        rows = before = parts[0].rows if parts else 0
        nbytes = parts[0].nbytes if parts else 0
        while lane:
            part = lane[0]
            if part.line is None or part.deadline <= now:
                if self._first(lane, now) is None:
                    break
                continue
            if parts and (rows + part.rows > max_rows or nbytes + part.nbytes > max_bytes):
                break
            rows += part.rows
            nbytes += part.nbytes
            part.line = None
            parts.append(lane.popleft())
        taken = len(parts) - already
        self.live -= taken
        self._total.rows -= rows - before
        if lane is self._large:
            self._total.large_rows -= rows - before
        return parts
