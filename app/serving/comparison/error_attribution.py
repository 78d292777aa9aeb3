"""Decide which errors count against a model version. Comparisons and automatic rollback use it."""

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
"""Codes of errors that count against a version: it raised, answered wrongly or too late, failed to load, or killed its
replica. Unexpected errors (``internal``) count too: they distinguish two versions only if one of them causes more.
Errors of the caller, exceeded limits, and outages of the registry or the feature store do not count."""


def is_fault(code: str) -> bool:
    """Return whether an error of this code counts against the version."""
    return code in FAULTS


def is_shadow_fault(code: str) -> bool:
    """Return whether an error counts against a shadow. Rejected input does: the caller's version accepted it."""
    return code in FAULTS or code == InvalidInput.code
