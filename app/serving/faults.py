"""Which errors count against the version that was to answer, and which are the caller's own or nobody's.

`app.deployments.metrics` counts by it; versions are compared and rolled back on what it counts.
"""

from __future__ import annotations

from app.errors import DeadlineExceeded, ModelFailed, ModelUnavailable, PoolUnavailable, ServingError

_FAULTS = (ModelFailed, ModelUnavailable, PoolUnavailable, DeadlineExceeded)


def is_fault(error: Exception) -> bool:
    """Whether it counts against the version: it raised, answered wrongly or too late, cannot be loaded, or killed its
    replica.

    What nobody foresaw does too: versions are compared with each other, and an accident of all of them tells them not
    apart. What the caller got wrong, what is over a limit, and an outage of the registry or the feature store do not.
    """
    return isinstance(error, _FAULTS) or not isinstance(error, ServingError)
