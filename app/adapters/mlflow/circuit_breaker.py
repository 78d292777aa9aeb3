"""Not to ask again at once what has just failed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

_SPREAD = 0.25
"""Share by which a rest is shorter or longer, so that those who saw the same failure do not all come back together."""


class Circuit:
    """Says whether to ask something that has failed before. May be used from many threads.

    Args:
        rest_s: seconds for which it is left alone after a failure.
        clock: seconds, monotonic.
    """

    def __init__(self, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest_s = rest_s
        self._clock = clock
        self._rests_until: float | None = None
        self._lock = threading.Lock()

    def may_ask(self) -> bool:
        """False while it rests. Of those who come after that one shall ask; the others see how that ends."""
        with self._lock:
            if self._rests_until is None:
                return True
            if self._clock() < self._rests_until:
                return False
            self._rest()
            return True

    def failed(self) -> None:
        """It was asked and gave no answer."""
        with self._lock:
            self._rest()

    def answered(self) -> None:
        """It works."""
        with self._lock:
            self._rests_until = None

    def _rest(self) -> None:
        spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - no secret
        self._rests_until = self._clock() + self._rest_s * spread
