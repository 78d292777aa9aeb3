"""How many batches of one model a gateway replica has under way at once, found from how long they take.

`app.serving.batching.batcher` keeps one `InFlightBound` per batcher and tells it of every batch. Why it works as it
does, and
what was measured: ``docs/adr/0005-in-flight-bound.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_START = 2
"""One batch computes while the next one is on its way."""

_WINDOW = 16
_WINDOW_PER_BATCH = 8
"""The bound is judged by so many batches, and by so many for each that it allows: noise counts times the bound."""

_FEW_WAIT = 0.4
_FEW_WAIT_SHARE = 0.1
_MANY_WAIT = 0.75
_MANY_WAIT_SHARE = 0.15
"""Batches of this model that wait in the pool, and the share of the bound: with fewer the bound rises, with more it
falls. One batch too many is one that waits, so both lie below one, but above what noise makes of a large bound."""

_LONGEST_PAUSE = 24
"""Windows until a rise that was one too many is tried again, at most. Where a model computes one batch at a time such a
window costs half its throughput."""

_SLOWER = 2.0
"""What takes so many times longer than expected is measured before the bound follows it: the model may have changed."""

_FASTER = 0.8
"""No wait makes a batch faster. Below this share of what was expected, the expectation is wrong."""

_SAMPLES = 16
"""Batches in a measurement."""

_MEMORY = 0.985
"""Weight that a sample keeps with each further one. Some 66 count, which makes noise of 25 % one of 3 %."""

_TRUST = 0.25
"""Variance, in units of one sample's, up to which the line is believed at a size of batch."""

_SAME = 1.3
"""A measurement that differs by more from the line replaces it; else it is added to it."""

_MEASURE_FIRST_S = 2.0
_MEASURE_LAST_S = 60.0
_MEASURE_SHARE = 20
"""Seconds to the next measurement: they double from the first to the last, and are never less than so many times what a
measurement takes, which bounds its cost."""

_MEASURED_AS_LARGE = 8
"""Noise counts times the bound: one so large is measured as often as told above, a smaller one more rarely."""

_INSTANT_S = 1e-9


@dataclass(slots=True)
class _Line:
    """Seconds of a batch as a straight line over its rows: least squares in which older samples count less."""

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_rows: float = 0.0
    rows_seconds: float = 0.0

    @property
    def mean_rows(self) -> float:
        return self.rows / self.weight

    def add(self, rows: int, seconds: float) -> None:
        self.merge(_Line(1, rows, seconds, rows * rows, rows * seconds), _MEMORY)

    def merge(self, newer: _Line, kept: float) -> None:
        """Add samples to the share of the old ones that is kept."""
        self.weight = self.weight * kept + newer.weight
        self.rows = self.rows * kept + newer.rows
        self.seconds = self.seconds * kept + newer.seconds
        self.rows_rows = self.rows_rows * kept + newer.rows_rows
        self.rows_seconds = self.rows_seconds * kept + newer.rows_seconds

    def scale(self, factor: float) -> None:
        """Take every sample's seconds times a factor."""
        self.seconds *= factor
        self.rows_seconds *= factor

    def at(self, rows: float) -> float:
        """Seconds expected for so many rows. Neither the start nor a row costs less than nothing."""
        mean_rows, mean = self.mean_rows, self.seconds / self.weight
        spread = self.rows_rows - self.rows * mean_rows
        if spread <= 1e-4 * self.rows_rows:  # one size only: noise would make up any slope
            return max(mean, _INSTANT_S)
        slope = (self.rows_seconds - self.rows * mean) / spread
        slope = min(max(slope, 0.0), mean / mean_rows)
        return max(mean + slope * (rows - mean_rows), _INSTANT_S)

    def knows(self, rows: float) -> bool:
        """Whether there are samples enough near this size."""
        if self.weight < 1:
            return False
        spread = self.rows_rows - self.rows * self.mean_rows
        # Sizes within a tenth are one size, which needs no slope.
        tolerance = self.weight * (0.1 * self.mean_rows) ** 2
        return 1 / self.weight + (rows - self.mean_rows) ** 2 / (spread + tolerance) <= _TRUST


class InFlightBound:
    """The bound in force, `value`, between 1 and `most`.

    A batch that is under way alone takes what the pool needs for it. What batches take beyond that when several are
    under way they spend waiting, for each other and for those of other models and gateways: by Little's law,
    ``value * (1 - expected / taken)`` of them wait at a time. The bound is moved until that lies between none and one,
    and only while requests wait for it.

    What a batch takes alone is a line over its rows. It is fitted to batches that happen to be alone, and now and then
    to a *measurement*: a few batches with the bound at 1.

    Attributes:
        most: the upper bound; may be set at any time.
        rows_limit: during a measurement, the most rows that the next batch should have, so that sizes around the
            usual one are measured.
    """

    __slots__ = (
        "_alone", "_doubling", "_interval_s", "_learned", "_measure_after_s", "_measure_by", "_measured",
        "_measured_at", "_measuring_since", "_pause", "_pausing", "_rose", "_rows", "_samples", "_seconds", "_sizes",
        "_suspected", "_window", "most", "rows_limit",
    )  # fmt: skip

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows_limit: int | None = None
        self._learned = _START
        self._alone = _Line()
        # The window: batches, and sums over them.
        self._window = 0
        self._rows = 0
        self._seconds = 0.0
        # How the bound moves.
        self._doubling = True
        self._rose = False
        self._pause = 0
        self._pausing = 0
        # Measurements.
        self._measured = _Line()
        self._samples = 0
        self._sizes = (1, 1)
        self._measuring_since = 0.0
        self._measured_at = -math.inf
        self._interval_s = 0.0
        self._measure_by = math.inf
        self._measure_after_s = _MEASURE_FIRST_S
        self._suspected = False

    @property
    def value(self) -> int:
        """Batches that may be under way now."""
        return 1 if self.rows_limit is not None else min(self._learned, self.most)

    def finished(self, rows: int, seconds: float, *, alone: bool, limiting: bool, now: float) -> None:
        """A batch was answered.

        Args:
            rows: what it held.
            seconds: from its call to its answer.
            alone: no other was under way at any time of that.
            limiting: the bound was reached, and more waited, when it was answered.
            now: event loop time.
        """
        if self.rows_limit is not None:
            if alone:
                self._measured.add(rows, seconds)
                self._samples += 1
                self.rows_limit = self._sizes[self._samples % 2]
            if self._samples >= _SAMPLES or not limiting:
                self._end_measurement(now)
            return
        if alone:
            self._alone.add(rows, seconds)
        if not limiting or self.most == 1:
            return
        self._rows += rows
        self._seconds += seconds
        self._window += 1
        if self._window >= max(_WINDOW, _WINDOW_PER_BATCH * self.value):
            self._judge(now)

    def failed(self, now: float) -> None:
        """A batch failed, which says nothing of how long one takes: what was being observed begins anew."""
        self._forget_window()
        if self.rows_limit is not None:
            self._end_measurement(now)

    def _judge(self, now: float) -> None:
        rows, taken = self._rows / self._window, self._seconds / self._window
        self._forget_window()
        self._learned = self.value  # `most` may have been lowered
        if self._learned > 1 and (self._is_due(now) or not self._alone.knows(rows)):
            self._measure(rows, now)
            return
        stretch = taken / self._alone.at(rows)
        if stretch < _FASTER:
            self._alone.scale(stretch)
            self._pausing = 0
            self._measure_soon(now)
            return
        if stretch < _SLOWER:
            self._suspected = False
        elif not self._suspected and not self._rose:
            self._suspected = True
            self._measure(rows, now)
            return
        self._move(self._learned * (1 - 1 / stretch))

    def _move(self, waiting: float) -> None:
        bound = self._learned
        rose, self._rose = self._rose, False
        if bound > 1 and waiting > max(_MANY_WAIT, _MANY_WAIT_SHARE * bound):
            self._learned = bound - max(1, int(waiting))
            self._doubling = False
            self._pause = self._pausing = min(max(2 * self._pause, 2), _LONGEST_PAUSE)
        elif bound < self.most and waiting < max(_FEW_WAIT, _FEW_WAIT_SHARE * bound):
            if rose:
                self._pause = self._pausing = 0
            if self._pausing:
                self._pausing -= 1
                return
            # Until it first was too high the bound grows by half, so that a large pool is soon in use.
            self._learned = min(self.most, bound + (max(1, bound // 2) if self._doubling else 1))
            self._rose = True

    def _measure(self, rows: float, now: float) -> None:
        self._measured = _Line()
        self._samples = 0
        self._sizes = (max(1, round(rows / 2)), max(1, round(2 * rows)))
        self.rows_limit = self._sizes[0]
        self._measuring_since = now

    def _is_due(self, now: float) -> bool:
        interval_s = self._interval_s * max(_MEASURED_AS_LARGE / self._learned, 1)
        return now >= min(self._measured_at + interval_s, self._measure_by)

    def _measure_soon(self, now: float) -> None:
        self._measure_after_s = _MEASURE_FIRST_S
        self._measure_by = min(self._measure_by, now + _MEASURE_FIRST_S)

    def _end_measurement(self, now: float) -> None:
        self.rows_limit = None
        self._measured_at = now
        self._interval_s = max(self._measure_after_s, _MEASURE_SHARE * (now - self._measuring_since))
        self._measure_by = math.inf
        self._measure_after_s = min(2 * self._measure_after_s, _MEASURE_LAST_S)
        if not self._samples:
            return
        rows = self._measured.mean_rows
        if self._alone.knows(rows) and not 1 / _SAME < self._measured.at(rows) / self._alone.at(rows) < _SAME:
            self._alone = self._measured
            self._pausing = 0
            self._measure_soon(now)  # the change may have come in the middle of this measurement
        else:
            self._alone.merge(self._measured, _MEMORY**self._samples)

    def _forget_window(self) -> None:
        self._window = 0
        self._rows = 0
        self._seconds = 0.0
