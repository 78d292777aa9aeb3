"""How fast rows leave a queue that never gets empty, and the refusal of what would wait in vain.

Small and large parts are measured apart, because small ones overtake large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.errors import overloaded
from app.serving.batching.queue import Part, Total

_LEAST_S = 1.0
"""A shorter backlog is a burst, which says nothing of a model's speed."""
_MEMORY_S = 8.0
"""The speed is that of about the last so many seconds."""
_MARGIN = 0.9
"""Of the time until its deadline, how much a part may wait; the rest is for its own call."""


class Outflow:
    """Measures one queue.

    Args:
        now: event loop time.

    Attributes:
        rows_per_s: the speed; 0 while it is not known, and after some seconds without a backlog.
    """

    __slots__ = ("_measured", "_rows", "_since", "rows_per_s")

    def __init__(self, now: float) -> None:
        self.rows_per_s = 0.0
        self._rows = 0.0
        self._since = self._measured = now

    def left(self, rows: int, waiting: int, now: float) -> None:
        """Count rows that were answered or have failed.

        Args:
            waiting: rows that wait now.
        """
        if not waiting:
            if now > self._measured + _MEMORY_S:  # not at once: a queue whose parts have all expired is empty too
                self.rows_per_s = 0.0
            self._rows = 0.0
            self._since = now
            return
        self._rows += rows
        seconds = now - self._since
        if seconds >= _LEAST_S:
            self.rows_per_s = self._rows / seconds
            self._measured = now
        if seconds >= _MEMORY_S:
            self._rows /= 2
            self._since += seconds / 2


class Outflows:
    """Measures the small and the large parts that wait in one batcher.

    Args:
        waiting: the rows that wait.
        now: event loop time.
    """

    def __init__(self, waiting: Total, now: float) -> None:
        self._waiting = waiting
        self._small = Outflow(now)
        self._large = Outflow(now)

    def left(self, parts: Sequence[Part[Any, Any]], now: float) -> None:
        """Count parts that a call has answered or failed. One that the deadline has cut short tells no speed."""
        waiting = self._waiting
        large = sum([part.rows for part in parts if part.is_large])
        self._small.left(sum([part.rows for part in parts]) - large, waiting.rows - waiting.large_rows, now)
        self._large.left(large, waiting.large_rows, now)

    def check(self, is_large: bool, left_s: float) -> None:
        """Refuse a part that would wait in vain.

        Args:
            left_s: seconds until its deadline.

        Raises:
            Overloaded: at the present speed, the rows before it take longer.
        """
        speed = (self._large if is_large else self._small).rows_per_s
        if speed:
            waiting = self._waiting
            rows = waiting.large_rows if is_large else waiting.rows - waiting.large_rows
            if rows > _MARGIN * speed * left_s:
                why = f"{rows} rows wait, {speed:.3g} are answered per second, and the deadline is in {left_s:.1f} s"
                raise overloaded(why)
