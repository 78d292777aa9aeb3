"""Which errors count against the version that was to answer, and which are the caller's own or nobody's.

Versions are compared and rolled back on what counts here.
"""

from __future__ import annotations

from app.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelUnavailable,
    PoolUnavailable,
    ReplicaDied,
    ServingError,
    WrongRowCount,
)

FAULTS = frozenset(
    kind.code
    for kind in (
        ModelFailed,
        WrongRowCount,
        ModelUnavailable,
        PoolUnavailable,
        ReplicaDied,
        DeadlineExceeded,
        ServingError,
    )
)
"""Codes of errors that count against a version: it raised, answered wrongly or too late, could not be loaded, or killed
its replica. What nobody foresaw (``internal``) does too: it tells two versions apart only where one of them causes it.
What the caller got wrong, what is over a limit, and an outage of the registry or the feature store do not count."""


def is_fault(code: str) -> bool:
    """Whether an error of this code counts against the version."""
    return code in FAULTS


def is_fault_of_copy(code: str) -> bool:
    """Whether an error of this code counts against a shadow: input that the caller's version took is not wrong."""
    return code in FAULTS or code == InvalidInput.code
