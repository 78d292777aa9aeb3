"""Adapter for Feast's online store. Importing it imports Feast."""

from __future__ import annotations

from typing import Any

import typeguard

__all__ = ["FeatureStore"]


def _unchecked(target: Any = None, **options: Any) -> Any:
    return _unchecked if target is None else target


# Feast has its functions rewritten to check the types of their arguments, which takes five of the seven CPU seconds of
# its import.
_checked = typeguard.typechecked
typeguard.typechecked = _unchecked
try:
    from feast import FeatureStore
finally:
    typeguard.typechecked = _checked
