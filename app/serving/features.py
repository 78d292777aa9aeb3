"""Queries to the feature store and the rows that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class FeatureQuery(NamedTuple):
    """The source of features: exactly one of a feature view and a feature service."""

    view: str | None
    service: str | None

    def __str__(self) -> str:
        return f"feature view '{self.view}'" if self.view else f"feature service '{self.service}'"


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """The join keys and feature names, in order, of a feature view or service."""

    join_keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features of some entities: one list of values per feature, None for missing values.

    `found` says for each entity whether the store has it.
    """

    columns: Mapping[str, Sequence[Any]]
    found: Sequence[bool]
