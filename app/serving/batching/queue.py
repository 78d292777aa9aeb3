"""What waits to be sent: the order in which parts of requests enter batches. `app.serving.batching.batcher` keeps it.

Small parts go first, so that one caller's many rows do not hold up another's single one; large parts are guaranteed a
share of every batch, so that they always move on.
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
"""A part is large from this fraction of a batch on, and while small ones wait as much of each batch is for large ones.
A quarter leaves small parts most of a batch, and lets a large request move on at a quarter of the pace it has alone."""


class Part(asyncio.Future[R], Generic[P, R]):
    """One request's rows, or a cut of them, and the future of their answer.

    It is one object with its future because it is made for every request: that is faster than two, and tells at once
    when the caller leaves, without a callback.
    """

    __slots__ = ("deadline", "line", "nbytes", "payload", "rows", "since")

    payload: P | None
    """What is sent; None once the caller has gone, so that it is held no longer."""
    rows: int
    nbytes: int
    deadline: float
    since: float
    """Event loop time at which it began to wait."""
    line: Line[P, R] | None
    """Where it waits; None once it is under way."""

    def cancel(self, msg: object = None) -> bool:
        """The caller has gone."""
        self._leave()
        return super().cancel(msg)

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """It fails, perhaps while it waits."""
        self._leave()
        super().set_exception(exception)

    def _leave(self) -> None:
        if self.line is not None:
            self.line.withdraw(self)
        self.payload = None


class Total:
    """Counts what waits in all lines of a batcher."""

    __slots__ = ("parts", "rows")

    def __init__(self) -> None:
        self.parts = 0
        self.rows = 0


class Line(Generic[P, R]):
    """Parts that may share a batch, in a lane of small and a lane of large ones."""

    __slots__ = ("_credit", "_large", "_small", "_total", "live")

    def __init__(self, total: Total) -> None:
        self._small: deque[Part[P, R]] = deque()
        self._large: deque[Part[P, R]] = deque()
        self._credit = 0
        self._total = total
        self.live = 0
        """Parts whose callers still wait. What a caller has left behind is skipped when its turn comes."""

    def append(self, part: Part[P, R], *, large: bool) -> None:
        """Take a part to the end of its lane."""
        part.line = self
        (self._large if large else self._small).append(part)
        self.live += 1
        total = self._total
        total.parts += 1
        total.rows += part.rows

    def withdraw(self, part: Part[P, R]) -> None:
        """A part waits here no longer."""
        part.line = None
        self.live -= 1
        total = self._total
        total.parts -= 1
        total.rows -= part.rows

    def oldest_since(self) -> float:
        """When the part began to wait that has waited longest; infinity where none waits."""
        since = math.inf
        for lane in (self._small, self._large):
            while lane and lane[0].line is None:
                lane.popleft()
            if lane and lane[0].since < since:
                since = lane[0].since
        return since

    def take(self, now: float, max_rows: int, max_bytes: int) -> list[Part[P, R]]:
        """The parts of the next batch, at most two of them out of the order in which they came: a large one is first.

        A part that is over a bound by itself goes alone. Parts past their deadline are answered with
        `DeadlineExceeded`, and none may be left.
        """
        if not self._large:
            return self._fill([], self._small, now, max_rows, max_bytes)
        small, large = self._first(self._small, now), self._first(self._large, now)
        if small is None or large is None:
            self._credit = 0
            return self._fill([], self._small if large is None else self._large, now, max_rows, max_bytes)
        # Deficit round robin. Both sides are times LARGE_SHARE, so that the share of a tiny batch is not nothing.
        self._credit += max_rows
        cost = LARGE_SHARE * min(large.rows, max_rows)
        if self._credit < cost:
            return self._fill([], self._small, now, max_rows, max_bytes)
        self._credit -= cost
        self._large.popleft()
        self.withdraw(large)
        return self._fill([large], self._small, now, max_rows, max_bytes)

    def _first(self, lane: deque[Part[P, R]], now: float) -> Part[P, R] | None:
        """The first part that can be sent."""
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
        """Add parts of a lane up to the bounds. Written out and counted once, for it is done for every request."""
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
        self._total.parts -= taken
        self._total.rows -= rows - before
        return parts
