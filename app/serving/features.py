"""Feature queries and the rows that the feature store returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class FeatureQuery(NamedTuple):
    """Where features come from: exactly one of a feature view and a feature service."""

    view: str | None
    service: str | None

    def __str__(self) -> str:
        return f"feature view '{self.view}'" if self.view else f"feature service '{self.service}'"


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A feature view or service as the store defines it: its join keys and its features' names, in order."""

    join_keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features read for some entities: per feature one list of values, None where the store has no value.

    `found` says per entity whether the store knows it at all.
    """

    columns: Mapping[str, Sequence[Any]]
    found: Sequence[bool]
