"""Predictions that take less time than the way to a thread and back.

`app.hosting.model_host` runs them on its event loop, which saves a single caller 0.2 to 0.4 ms. Figures:
``docs/adr/0015-short-predictions.md``.
"""

from __future__ import annotations

from collections.abc import Callable

SHORT_S = 1e-3
"""Longest prediction that may run on the event loop. A gateway handles about three requests in this time."""

COMPUTING = frozenset({"catboost", "lightgbm", "onnx", "sklearn", "xgboost"})
"""MLflow flavors whose models compute and never wait. A ``python_function`` may call another server."""

_UNKNOWN_S = 4 * SHORT_S
"""First estimate, and the most that one prediction counts: a model needs a dozen short predictions to be short, and one
that the machine delayed does not outweigh them."""

_NEWEST = 1 / 8
"""Weight of the newest prediction in the estimate."""

_SIZES = 8
"""Estimates per model, one per power of two of rows: up to 127 rows."""

_LONG_S = 25 * SHORT_S
_PAUSE = 400
"""A prediction of more than `_LONG_S` on the event loop sends the model to threads for this many times its duration, so
that such surprises take at most 1/400 of the loop's time."""


class ShortCalls:
    """Estimates of one model's prediction times, by the number of rows.

    Args:
        flavor: MLflow's flavor of the model.
        clock: monotonic time in seconds.
    """

    __slots__ = ("_clock", "_expected", "_pause_until")

    def __init__(self, flavor: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected = [_UNKNOWN_S] * _SIZES if flavor in COMPUTING else []
        self._pause_until = 0.0

    def is_short(self, rows: int) -> bool:
        """Return whether a prediction of this many rows is expected to be short."""
        size = rows.bit_length()
        if size >= len(self._expected) or self._expected[size] > SHORT_S:
            return False
        return not self._pause_until or self._clock() >= self._pause_until

    def took(self, rows: int, seconds: float, *, on_loop: bool) -> None:
        """Record the duration of a prediction. Thread-safe."""
        size = rows.bit_length()
        if size >= len(self._expected):
            return
        self._expected[size] += (min(seconds, _UNKNOWN_S) - self._expected[size]) * _NEWEST
        if on_loop and seconds > _LONG_S:
            self._pause_until = self._clock() + seconds * _PAUSE
