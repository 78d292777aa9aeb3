"""Result of ``compare``: two versions of a model, their rates and means, and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a mean with its 95 % confidence interval; `low` and `high` are None where the spread is unknown."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The other version minus the base, with its 95 % confidence interval and the verdict in words."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """Counts of one of the two versions from `since` to `until` (ISO 8601; None: since the gateway started).

    `faults` are errors that the version caused; errors of callers are not counted. `latency_s` is in seconds.
    `prediction` is the mean over requests of the numbers in each response.
    """

    reference: str
    version: str
    requests: int
    faults: int
    error_rate: Estimate | None
    latency_s: Estimate | None
    prediction: Estimate | None
    since: str | None
    until: str | None


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Shadow traffic: copies of the base's requests that the other version answered.

    It answered `requests` with `rows` in total. `mismatch_rate` is the share of rows with another label or another
    form. `difference` (mean), `largest` and `relative` (mean) are absolute differences of numbers. `latency_s` is how
    much longer the other version took, in seconds. `errors` counts failed copies by code, `dropped` unsent ones by
    cause.
    """

    requests: int
    rows: int
    mismatch_rate: Estimate | None
    difference: Estimate | None
    largest: float | None
    relative: float | None
    latency_s: Difference | None
    error_rate: Estimate | None
    errors: Mapping[str, int]
    dropped: Mapping[str, int]
    since: str | None
    until: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two versions; a difference is None where there are too few counts.

    `counted` is ``divided`` where the traffic split assigned the counted calls at random, and ``all`` where callers
    chose the version themselves.
    """

    model: str = field(metadata={"key": "model_name"})
    level: float
    counted: str
    base: ComparedVersion
    other: ComparedVersion
    error_rate: Difference | None
    latency_s: Difference | None
    prediction: Difference | None
    shadow: ShadowComparison | None
