"""Counts of one model version. Each gateway replica has its own; they add up over replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from operator import add
from typing import Any, ClassVar, NamedTuple, Self

from app.serving.comparison.prediction_diff import Disagreement
from app.serving.confidence import Moments

COMPARED = "compared"
INCOMPARABLE = "incomparable"
"""Outcomes of a shadow request that was answered. Any other outcome is the code of an error."""


class ShadowPair(NamedTuple):
    """The version that answered the callers, and the shadow version that received copies of their requests."""

    name: str
    version: str
    shadow: str


class ShadowResult(NamedTuple):
    """How one shadow request ended.

    `outcome` is `COMPARED`, `INCOMPARABLE` or an error code. `seconds` is the time of the shadow, `base_s` the time of
    the caller's answer, both without feature reads.
    """

    outcome: str
    seconds: float
    base_s: float
    rows: int
    disagreement: Disagreement | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the shadow answered without an error."""
        return self.outcome in (COMPARED, INCOMPARABLE)


class _Addable:
    """Counts in dataclasses, which are added field by field."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __add__(self, other: Self) -> Self:
        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return type(self)(**{name: _COMBINE.get(name, add)(*pair) for name, pair in pairs.items()})


@dataclass(slots=True)
class VariantCounts(_Addable):
    """Requests for a bare model name that one version received since the model's traffic last changed.

    `since` is when counting began and `until` the last time that the model was counted, in seconds since 1970.
    `seconds` holds one number per answered request, `predictions` the mean of each answer that has numbers. `faults`
    are errors that count against the version.
    """

    since: float | None = None
    until: float | None = None
    faults: int = 0
    seconds: Moments = field(default_factory=Moments)
    predictions: Moments = field(default_factory=Moments)

    @property
    def requests(self) -> int:
        """Number of answered requests and faults."""
        return self.seconds.count + self.faults

    def add(self, seconds: float, prediction: float | None) -> None:
        """Count an answered request."""
        self.seconds.add(seconds)
        if prediction is not None:
            self.predictions.add(prediction)


@dataclass(slots=True)
class ShadowCounts(_Addable):
    """Shadow requests that one version received for another, since the model's traffic last changed.

    `outcomes` counts requests by how they ended, `dropped` counts requests that were not sent, by cause. `rows` and
    `mismatched_rows` are those of answered requests. `differences`, `relative` and `slower` (seconds, negative where
    the shadow was faster) hold one number per request. `since` and `until` are as in `VariantCounts`.
    """

    since: float | None = None
    until: float | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    mismatched_rows: int = 0
    differences: Moments = field(default_factory=Moments)
    largest: float = 0.0
    relative: Moments = field(default_factory=Moments)
    slower: Moments = field(default_factory=Moments)

    def add(self, result: ShadowResult) -> None:
        """Count a request that was sent."""
        self.outcomes[result.outcome] = self.outcomes.get(result.outcome, 0) + 1
        if not result.is_answered:
            return
        self.rows += result.rows
        self.slower.add(result.seconds - result.base_s)
        found = result.disagreement
        # All rows mismatch where the two answers cannot be compared.
        self.mismatched_rows += found.mismatched_rows if found is not None else result.rows
        if found is not None and found.difference is not None:
            self.differences.add(found.difference)
            self.relative.add(found.relative or 0.0)
            self.largest = max(self.largest, found.largest or 0.0)

    def drop(self, cause: str) -> None:
        """Count a request that was not sent."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1


@dataclass(frozen=True, slots=True)
class Statistics(_Addable):
    """Counts of one model version since its gateway replicas started.

    `requests` are answered requests, `request_seconds` the sum of their times. `failures` are errors after the version
    was known; `faults` are those that count against the version (`app.serving.comparison.error_attribution`).
    `replicas` is the number of gateway replicas that are included. `variant` and `shadows` (by the version whose
    requests were copied) start again when the model's traffic changes.
    """

    requests: int = 0
    rows: int = 0
    failures: int = 0
    batches: int = 0
    request_seconds: float = 0.0
    batch_seconds: float = 0.0
    faults: int = 0
    replicas: int = 0
    variant: VariantCounts = field(default_factory=VariantCounts)
    shadows: Mapping[str, ShadowCounts] = field(default_factory=dict)
    request_seconds_squared: float = 0.0


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, **other, **{key: one[key] + other[key] for key in one.keys() & other.keys()}}


def _chosen(choose: Callable[[list[float]], float], one: float | None, other: float | None) -> float | None:
    given = [moment for moment in (one, other) if moment is not None]
    return choose(given) if given else None


_COMBINE: Mapping[str, Callable[[Any, Any], Any]] = {
    "since": partial(_chosen, min),
    "until": partial(_chosen, max),
    "largest": max,
    "outcomes": _merged,
    "dropped": _merged,
    "shadows": _merged,
}
"""How to combine fields that are not simply added."""
