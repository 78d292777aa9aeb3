"""Predictions that are so short that the way to a thread and back would cost more.

`app.hosting.model_host` makes them on its event loop, where nothing else runs meanwhile: 0.2 to 0.4 ms less for a
caller who is alone. What was measured: ``docs/adr/0015-short-predictions.md``.
"""

from __future__ import annotations

from collections.abc import Callable

SHORT_S = 1e-3
"""A gateway takes about as long for three requests, and holds up others as long."""

COMPUTING = frozenset({"catboost", "lightgbm", "onnx", "sklearn", "xgboost"})
"""MLflow's flavours whose models compute and do not wait. A ``python_function`` may ask another server."""

_UNKNOWN_S = 4 * SHORT_S
"""What is expected at first, and counted at most of one prediction: a dozen short ones are needed, and one that the
machine held up does not outweigh those before it."""

_NEWEST = 1 / 8
"""Weight of the newest prediction in what is expected."""

_SIZES = 8
"""Powers of two of rows that are told apart: up to 127 rows."""

_LONG_S = 25 * SHORT_S
_PAUSE = 400
"""One that took longer than `_LONG_S` on the event loop is followed by so many times as long in threads: whatever a
model does, surprises take the loop no more than a four-hundredth of the time."""


class ShortCalls:
    """How long one model's predictions take, by the number of their rows.

    Args:
        flavor: MLflow's name for the kind of model.
        clock: monotonic time in seconds.
    """

    __slots__ = ("_clock", "_expected", "_pause_until")

    def __init__(self, flavor: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected = [_UNKNOWN_S] * _SIZES if flavor in COMPUTING else []
        self._pause_until = 0.0

    def is_short(self, rows: int) -> bool:
        """Whether a prediction of so many rows is expected to be short."""
        size = rows.bit_length()
        if size >= len(self._expected) or self._expected[size] > SHORT_S:
            return False
        return not self._pause_until or self._clock() >= self._pause_until

    def took(self, rows: int, seconds: float, *, on_loop: bool) -> None:
        """A prediction is done. May be called from any thread."""
        size = rows.bit_length()
        if size >= len(self._expected):
            return
        self._expected[size] += (min(seconds, _UNKNOWN_S) - self._expected[size]) * _NEWEST
        if on_loop and seconds > _LONG_S:
            self._pause_until = self._clock() + seconds * _PAUSE
