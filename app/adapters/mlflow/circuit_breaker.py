"""Circuit breaker: after a failure, skip calls for a cool-down period."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

_JITTER = 0.25
"""Share by which cool-downs vary, so that callers that saw the same failure do not retry at the same time."""


class CircuitBreaker:
    """Decides whether a call is worth a try. Thread-safe.

    Args:
        cooldown_s: seconds without calls after a failure.
        clock: monotonic seconds.
    """

    def __init__(self, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._open_until: float | None = None
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Return False during a cool-down. After it, let one caller try; the others wait for another cool-down."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._clock() < self._open_until:
                return False
            self._open()
            return True

    def failed(self) -> None:
        """Start a cool-down."""
        with self._lock:
            self._open()

    def succeeded(self) -> None:
        """End the cool-down."""
        with self._lock:
            self._open_until = None

    def _open(self) -> None:
        factor = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        self._open_until = self._clock() + self._cooldown_s * factor
