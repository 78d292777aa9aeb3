"""The autoscaling policies. Serve's controller imports them, so they import nothing else.

Serve counts calls, but a call to a pool is a whole batch, and most requests to a gateway and most reads of features
pass Serve by. So replicas report their load (`PoolMember.scaling_stats`, `Gateway.record_autoscaling_stats`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONGOING = "ongoing"
ROWS = "rows"
BUSY = "busy"
WAIT_MS = "oldest_wait_ms"


class PoolScalingPolicy:
    """Works out the replicas that a pool needs. Serve applies the limits and the delays.

    Args:
        target_rows: rows per replica, waiting or in prediction.
        target_busy: busy share of a replica's prediction threads.
        target_wait_ms: milliseconds that the oldest row may wait.
    """

    def __init__(self, target_rows: float, target_busy: float, target_wait_ms: float) -> None:
        self._target_rows = target_rows
        self._target_busy = target_busy
        self._target_wait_ms = target_wait_ms

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the wanted replicas and no state, from Serve's ``AutoscalingContext``."""
        running = context.current_num_replicas
        stats: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        if not running or len(stats.get(ROWS, {})) < running:
            return context.target_num_replicas, {}  # new replicas have not reported yet
        wanted = max(
            sum(stats[ROWS].values()) / self._target_rows,
            sum(stats[BUSY].values()) / self._target_busy,
        )
        if max(stats[WAIT_MS].values()) > self._target_wait_ms:
            wanted = max(wanted, running + 1)
        if context.total_num_requests > 0:  # a call that waits for a load has no rows yet
            wanted = max(wanted, 1)
        return wanted, {}


class RequestScalingPolicy:
    """Works out the replicas, of gateways or of `Features`, that the requests in progress need.

    Serve applies the limits and the delays.

    Args:
        target_ongoing_requests: requests in progress per replica.
    """

    def __init__(self, target_ongoing_requests: float) -> None:
        self._target = target_ongoing_requests

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the wanted replicas and no state, from Serve's ``AutoscalingContext``."""
        stats: Mapping[Any, float] = (context.aggregated_metrics or {}).get(ONGOING, {})
        if len(stats) < context.current_num_replicas:
            return context.target_num_replicas, {}  # new replicas have not reported yet
        return (context.total_num_requests + sum(stats.values())) / self._target, {}
