"""Which calls are sent again, when, and how long: a policy for both clients, carried out by tenacity."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from ml_serve_client._errors import ApiError, ConnectionFailed

_BUSY = (429, 503)
_LASTING = ("model_unavailable", "replica_died")
"""Codes of a 503 that are not tried again: a version that does not load, a request that may be what kills replicas."""
_LEAST_S = 0.001


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call that failed is sent again, by itself: as long as its time allows, and only what may pass.

    That is an answer of 429 or 503, but for a model that cannot be loaded and a replica that died of the request; a
    connection that cannot be made; and one that broke, since every call of a client may be repeated: predictions change
    nothing, and a load, a promotion, a rollback or an unload done twice is as one. An answer that is late is not asked
    for again. ``Retry-After`` is kept; where it would take longer than the call has time, the error is raised at once.

    Args:
        attempts: most attempts of one call; 1 sends nothing twice.
        backoff_s: seconds of the first wait at most, doubled by each attempt; the wait is drawn from 0 to that, and
            comes on top of ``Retry-After``.
        max_backoff_s: seconds that this grows to.

    Raises:
        ValueError: there is no attempt, or a wait is negative.
    """

    attempts: int = 3
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be 1 or more")
        if self.backoff_s < 0 or self.max_backoff_s < 0:
            raise ValueError("backoff_s and max_backoff_s must be 0 or more")

    def policy(self, budget: float) -> dict[str, Any]:
        """Arguments for tenacity's ``Retrying`` and ``AsyncRetrying``; `budget` is the seconds that the call has."""
        backoff = wait_random_exponential(multiplier=self.backoff_s, max=self.max_backoff_s)
        return {
            "stop": stop_after_attempt(self.attempts) | stop_before_delay(budget),
            "wait": lambda state: _asked(state) + backoff(state),
            "retry": retry_if_exception(_passes),
            "reraise": True,
        }


DEFAULT = Retry()


class Budget:
    """The seconds that a call has; its clock starts with the first attempt."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: float | None = None

    def left(self) -> float:
        """Seconds left for the attempt that begins now; never 0."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return max(self.seconds - (now - self._began), _LEAST_S)


def _passes(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status in _BUSY and error.code not in _LASTING
    return isinstance(error, ConnectionFailed)  # where it was only late, no time is left


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0
