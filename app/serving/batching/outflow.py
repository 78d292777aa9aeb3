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
    """Measures one queue while it has a backlog: as long as each batch leaves something behind.

    A batch that empties the queue says nothing of how many rows it could have taken.

    Attributes:
        rows_per_s: the speed; 0 while it is not known.
    """

    __slots__ = ("_measured", "_rows", "_since", "rows_per_s")

    def __init__(self) -> None:
        self.rows_per_s = 0.0
        self._rows = 0.0
        self._since: float | None = None
        self._measured = 0.0

    def taken(self, waiting: int, now: float) -> None:
        """Note that a batch was taken, and how many rows it has left behind."""
        if not waiting:
            self._since = None
        elif self._since is None:
            self._since, self._rows = now, 0.0

    def left(self, rows: int, now: float) -> None:
        """Count rows that were answered or have failed."""
        if self._since is None:
            return
        self._rows += rows
        seconds = now - self._since
        if seconds >= _LEAST_S:
            self.rows_per_s = self._rows / seconds
            self._measured = now
        if seconds >= _MEMORY_S:
            self._rows /= 2
            self._since += seconds / 2

    def refuses(self, waiting: int, deadline: float, now: float) -> bool:
        """Return whether a part would wait in vain behind so many rows. Call it for every part that comes."""
        if not waiting:
            self._since = None  # also where all that waited has expired or was withdrawn
            return False
        if not self.rows_per_s:
            return False
        if self._since is None and now > self._measured + _MEMORY_S:
            self.rows_per_s = 0.0
            return False
        return waiting > _MARGIN * self.rows_per_s * (deadline - now)


class Outflows:
    """Measures the small and the large parts that wait in one batcher.

    Args:
        waiting: the rows that wait.
    """

    def __init__(self, waiting: Total) -> None:
        self._waiting = waiting
        self._small = Outflow()
        self._large = Outflow()

    def taken(self, now: float) -> None:
        """Note that a batch was taken from what waits."""
        large = self._waiting.large_rows
        self._small.taken(self._waiting.rows - large, now)
        self._large.taken(large, now)

    def left(self, parts: Sequence[Part[Any, Any]], rows: int, now: float) -> None:
        """Count parts that a call has answered or failed. One that the deadline has cut short tells no speed.

        Args:
            parts: of one batch; if some of them are large, the first one is.
            rows: of all parts.
        """
        large = sum([part.rows for part in parts if part.is_large]) if parts[0].is_large else 0
        self._small.left(rows - large, now)
        self._large.left(large, now)

    def check(self, is_large: bool, deadline: float, now: float) -> None:
        """Refuse a part that would wait in vain.

        Raises:
            Overloaded: at the present speed, the rows before it take longer than until its deadline.
        """
        large = self._waiting.large_rows
        waiting = large if is_large else self._waiting.rows - large
        outflow = self._large if is_large else self._small
        if outflow.refuses(waiting, deadline, now):
            raise overloaded(
                f"{waiting} rows wait, {outflow.rows_per_s:.3g} are answered per second, and the deadline is in "
                f"{deadline - now:.1f} s"
            )
