"""Retry policy of both clients, and the attempts of one call."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from ml_serve_client._errors import ApiError, ClientError, ConnectionFailed

_BUSY = (429, 503)
_PERMANENT = ("model_unavailable", "replica_died")
"""Codes of a 503 that are not retried: a version that does not load, a request that may be what kills replicas."""
_MIN_TIMEOUT_S = 0.001
_MAX_DOUBLINGS = 60  # keeps the backoff a finite number


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy: which failed calls the client repeats, how often and after which wait.

    The client retries responses with status 429 or 503, connections that cannot be made and connections that break.
    It does not retry a model that cannot be loaded, a replica that died while predicting, or a response that is late.
    Every method can be repeated: predictions change nothing, and to load, unload, promote or roll back twice has the
    effect of once. The client waits as long as ``Retry-After`` says, plus the backoff. It raises the error at once
    where the wait would exceed the deadline of the call.

    Args:
        attempts: maximum attempts of one call; 1 disables retries.
        backoff_s: maximum of the first wait in seconds. It doubles with each attempt; the wait is drawn between 0 and
            the maximum.
        max_backoff_s: limit of the doubled maximum, in seconds.

    Raises:
        ValueError: `attempts` is less than 1, or a wait is negative.
    """

    attempts: int = 3
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be 1 or more")
        if self.backoff_s < 0 or self.max_backoff_s < 0:
            raise ValueError("backoff_s and max_backoff_s must be 0 or more")


DEFAULT_RETRY = Retry()


class Attempts:
    """The attempts of one call: they share its time budget, which starts with the first attempt."""

    def __init__(self, retry: Retry, budget_s: float) -> None:
        self._retry = retry
        self._budget_s = budget_s
        self._count = 0
        self._started = 0.0

    def begin(self) -> float:
        """Count an attempt and return the seconds that are left for it, always more than 0."""
        self._count += 1
        if self._count == 1:
            self._started = time.monotonic()
            return self._budget_s
        return max(self._budget_s - self._elapsed(), _MIN_TIMEOUT_S)

    def wait_after(self, error: ClientError) -> float | None:
        """Seconds to wait before the next attempt, None where the call has failed for good."""
        if self._count >= self._retry.attempts or not _is_transient(error):
            return None
        longest = min(self._retry.backoff_s * 2 ** min(self._count - 1, _MAX_DOUBLINGS), self._retry.max_backoff_s)
        wait = random.uniform(0, longest)  # noqa: S311 - spreads retries; it protects nothing
        if isinstance(error, ApiError):
            wait += error.retry_after or 0.0
        return wait if self._elapsed() + wait < self._budget_s else None

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def _is_transient(error: ClientError) -> bool:
    if isinstance(error, ApiError):
        return error.status in _BUSY and error.code not in _PERMANENT
    return isinstance(error, ConnectionFailed)  # after a late response, no time is left for another attempt
