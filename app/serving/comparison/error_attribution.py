"""Decide which errors count against a model version. Comparisons and automatic rollback use it."""

from __future__ import annotations

from app.errors import (
    DeadlineExceeded,
    ModelFailed,
    ModelUnavailable,
    PoolUnavailable,
    ReplicaDied,
    ServingError,
)

_KINDS = (ModelFailed, ModelUnavailable, PoolUnavailable, ReplicaDied, DeadlineExceeded, ServingError)
_CODES = frozenset(kind.code for kind in _KINDS)
"""Codes of errors that count against a version: it raised, answered wrongly or too late, failed to load, or killed its
replica. Unexpected errors (``internal``) count too: they distinguish two versions only if one of them causes more.
Errors of the caller, exceeded limits, and outages of the registry or the feature store do not count."""


def is_fault(code: str) -> bool:
    """Return whether an error of this code counts against the version."""
    return code in _CODES
