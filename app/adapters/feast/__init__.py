"""Adapter for Feast's online store. Importing it imports Feast, without two of its effects on the process."""

from __future__ import annotations

import os
from typing import Any

import prometheus_client  # noqa: F401 - before Feast, see below
import typeguard

__all__ = ["FeatureStore"]


def _unchecked(target: Any = None, **options: Any) -> Any:
    return _unchecked if target is None else target


# Feast has its functions rewritten to check the types of their arguments, which takes five of the seven CPU seconds of
# its import. It also has prometheus_client keep metrics in files of a temporary folder: here, if it is imported later,
# and in child processes, which outlive the folder.
_checked, _variables = typeguard.typechecked, {*os.environ}
typeguard.typechecked = _unchecked
try:
    from feast import FeatureStore
finally:
    typeguard.typechecked = _checked
    for _name in {"PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"} - _variables:
        os.environ.pop(_name, None)
