"""How many batches of one model a gateway replica has in flight, learned from how long they take.

`app.serving.batching.batcher` keeps one `InFlightBound` and reports every batch to it. Figures and alternatives:
``docs/adr/0017-plain-or-learned-in-flight-bound.md``.
"""

from __future__ import annotations

import math

_START = 2
"""First bound: one batch computes while the next one travels."""

_WINDOW = 8
"""Batches, per batch in flight, by which the bound is judged; at least twice as many."""

_TOO_FEW = 0.4
_TOO_MANY = 0.75
"""Batches that queue in the pool: with fewer the bound rises, with more it falls. One too many in flight is one in the
queue, so both lie below one. Noise counts times the bound: above a bound of five both grow with it."""

_EXPECTED = (0.8, 3.0)
"""Batch times, as a share of the expected ones. Outside this range the model may have changed: it is measured."""

_SAMPLES = 32
"""Batches in a measurement."""

_MEMORY = 0.985
"""Weight that a sample keeps with each further one: about 66 samples count."""

_MEASURE_EVERY_S = 15.0
_MEASURE_SHARE = 20
"""Seconds between measurements, and at least this many times their duration, which bounds their cost to 5 %."""

_LONGEST_PAUSE = 24
"""Most windows between attempts to rise, when rises proved too many. Such a window can halve the throughput."""


class _Line:
    """Seconds of a batch as a straight line over its rows: least squares in which older samples count less."""

    __slots__ = ("rows", "rows_rows", "rows_seconds", "seconds", "weight")

    def __init__(self) -> None:
        self.weight = self.rows = self.seconds = self.rows_rows = self.rows_seconds = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self.weight = self.weight * _MEMORY + 1
        self.rows = self.rows * _MEMORY + rows
        self.seconds = self.seconds * _MEMORY + seconds
        self.rows_rows = self.rows_rows * _MEMORY + rows * rows
        self.rows_seconds = self.rows_seconds * _MEMORY + rows * seconds

    def at(self, rows: float) -> float:
        """Return the expected seconds, or NaN if no samples of about this size are known."""
        if self.weight < 4:
            return math.nan
        mean_rows, mean = self.rows / self.weight, self.seconds / self.weight
        spread = self.rows_rows - self.rows * mean_rows
        # Sizes within a tenth are one size: their slope would be noise.
        tolerance = self.weight * (0.1 * mean_rows) ** 2
        if (rows - mean_rows) ** 2 > spread + tolerance:
            return math.nan
        slope = (self.rows_seconds - self.rows * mean) / max(spread, tolerance)
        return max(mean + min(max(slope, 0.0), mean / mean_rows) * (rows - mean_rows), 1e-9)


class InFlightBound:
    """The bound in force, `value`, between 1 and `most`.

    A batch that is alone in flight takes as long as the pool needs for it. With several in flight, batches take longer
    by the time that they queue, behind each other and behind other models and gateways. By Little's law,
    ``value * (1 - expected / taken)`` batches queue at a time. The bound moves until that lies between `_TOO_FEW` and
    `_TOO_MANY`, and only while requests wait for it.

    The expected time is a line over the rows of a batch, fitted to batches that are alone by chance or in a
    *measurement*: a few batches with the bound at 1.

    Attributes:
        most: the upper bound; may be set at any time.
        rows_limit: during a measurement, the most rows of the next batch, so that sizes around the usual one occur.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows_limit: int | None = None
        self._learned = _START
        self._doubling = True
        self._pause = self._pausing = 0
        self._alone = _Line()
        self._window: list[tuple[int, float]] = []
        self._sizes = (1, 1)
        self._samples = 0
        self._measuring_since = 0.0
        self._due = self._allowed = -math.inf

    @property
    def value(self) -> int:
        """Batches that may be in flight now."""
        return 1 if self.rows_limit is not None else min(self._learned, self.most)

    def finished(self, rows: int, seconds: float, *, alone: bool, limiting: bool, now: float) -> None:
        """Take an answered batch into account.

        Args:
            rows: rows of the batch.
            seconds: from its call to its answer.
            alone: no other batch was in flight at any time of the call.
            limiting: at its answer, the bound was reached and requests waited.
            now: event loop time.
        """
        if alone and (self.rows_limit is not None or not limiting):
            self._alone.add(rows, seconds)
        if self.rows_limit is not None:
            self._samples += alone
            self.rows_limit = self._sizes[self._samples % 2]
            if self._samples >= _SAMPLES or not limiting:
                self._end_measurement(now)
        elif limiting and self.most > 1:
            self._window.append((rows, seconds))
            if len(self._window) >= _WINDOW * max(2, self.value):
                self._judge(now)

    def failed(self, now: float) -> None:
        """Discard the current window or measurement: a failed batch says nothing about times."""
        self._window.clear()
        if self.rows_limit is not None:
            self._end_measurement(now)

    def _judge(self, now: float) -> None:
        rows, taken = (sum(values) / len(self._window) for values in zip(*self._window, strict=True))
        self._window.clear()
        self._learned = self.value  # `most` may have been lowered
        stretch = max(taken, 1e-9) / self._alone.at(rows)
        expected = _EXPECTED[0] < stretch < _EXPECTED[1]  # False for NaN
        if now >= (self._due if expected else self._allowed):
            if not expected:
                self._alone = _Line()
                self._pausing = 0
            self._sizes = (max(1, round(rows / 2)), max(1, round(2 * rows)))
            self._samples = 0
            self.rows_limit = self._sizes[0]
            self._measuring_since = now
        elif stretch >= _EXPECTED[0]:
            self._move(self._learned * (1 - 1 / stretch))

    def _move(self, queued: float) -> None:
        bound = self._learned
        noise = max(1.0, bound / 5)
        if bound > 1 and queued > _TOO_MANY * noise:
            self._learned = bound - max(1, int(queued))
            self._doubling = False
            self._pause = self._pausing = min(4 * self._pause + 2, _LONGEST_PAUSE)
        elif bound < self.most and queued < _TOO_FEW * noise:
            if self._pausing:
                self._pausing -= 1
                return
            # Until it first was too high the bound grows by half, so that a large pool is soon in use.
            self._learned = min(self.most, bound + (max(1, bound // 2) if self._doubling else 1))
            self._pause //= 2

    def _end_measurement(self, now: float) -> None:
        self.rows_limit = None
        self._allowed = now + _MEASURE_SHARE * (now - self._measuring_since)
        self._due = max(self._allowed, now + _MEASURE_EVERY_S)
