"""Compare two versions of a model: rates and means with 95 % confidence intervals, and a verdict in words.

``GET /v1/models/{name}/compare`` returns the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, isfinite
from typing import Literal

from app.errors import InvalidInput
from app.serving import confidence
from app.serving.comparison.error_attribution import is_fault
from app.serving.comparison.statistics import COMPARED, INCOMPARABLE, ShadowCounts, Statistics, VariantCounts
from app.serving.confidence import Interval, Moments

NOTHING_YET = "no difference can be told yet"
FEWEST = 30
"""Numbers that each side needs for the normal approximation of a mean."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a mean with its confidence interval, without bounds where the spread is unknown."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions. `prediction` is the mean over requests of the mean of each answer."""

    version: str
    requests: int
    faults: int
    error_rate: Estimate | None
    latency_s: Estimate | None
    prediction: Estimate | None
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The other version minus the base, with a confidence interval and a verdict in words."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Shadow requests: copies of the base's requests that the other version received.

    `requests` counts answered requests, `mismatch_rate` is the share of their rows with another label or form.
    `difference`, `largest` and `relative` compare their numbers, `latency_s` is the time beyond the base's. `errors`
    counts failed requests by error code, `dropped` requests that were not sent by cause.
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
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences between two versions.

    `counted` names the requests under comparison. ``divided``: requests for the bare name since its traffic last
    changed, which the gateway assigned to the versions at random. ``all``: all requests since the gateways started,
    where one of the versions had no request of the first kind. Then callers chose the version, perhaps at different
    times, and latencies have no interval.
    """

    counted: Literal["divided", "all"]
    base: Side
    other: Side
    error_rate: Difference | None
    latency_s: Difference | None
    prediction: Difference | None
    shadow: ShadowComparison | None


def compare(base_version: str, base: Statistics, other_version: str, other: Statistics) -> Comparison:
    """Compare a version with the base version."""
    are_divided = all(one.variant.requests > 0 for one in (base, other))
    mine, theirs = (one.variant if are_divided else _all_requests(one) for one in (other, base))
    shadow = other.shadows.get(base_version)
    return Comparison(
        counted="divided" if are_divided else "all",
        base=_side(base_version, theirs),
        other=_side(other_version, mine),
        error_rate=_rates(mine, theirs),
        latency_s=_means(mine.seconds, theirs.seconds, "slower", "faster") if are_divided else None,
        prediction=_means(mine.predictions, theirs.predictions, "higher", "lower"),
        shadow=_shadow(shadow) if shadow is not None else None,
    )


def _all_requests(counted: Statistics) -> VariantCounts:
    """Return the counts of all requests, without the spread of their times: see `Comparison`."""
    mean_s = counted.request_seconds / max(counted.requests, 1)
    return VariantCounts(faults=counted.faults, seconds=Moments(counted.requests, mean_s, inf))


def _side(version: str, counted: VariantCounts) -> Side:
    return Side(
        version,
        counted.requests,
        counted.faults,
        _rate(counted.faults, counted.requests),
        _mean(counted.seconds),
        _mean(counted.predictions),
        _time(counted.since),
        _time(counted.until),
    )


def _time(unix: float | None) -> datetime | None:
    """Return a time without the fraction of its second."""
    return datetime.fromtimestamp(int(unix), UTC) if unix is not None else None


def _rates(mine: VariantCounts, base: VariantCounts) -> Difference | None:
    if not mine.requests or not base.requests:
        return None
    found = confidence.rate_difference(mine.faults, mine.requests, base.faults, base.requests)
    return _verdict(found, "more errors", "fewer errors", enough=True)


def _means(mine: Moments, base: Moments, more: str, less: str) -> Difference | None:
    if not mine.count or not base.count:
        return None
    found = confidence.mean_difference(mine, base)
    if not isfinite(found.high - found.low):  # numbers too large to be squared
        return None
    return _verdict(found, more, less, enough=min(mine.count, base.count) >= FEWEST)


def _verdict(found: Interval, more: str, less: str, *, enough: bool) -> Difference:
    verdict = NOTHING_YET
    if enough and not found.spans_zero:
        verdict = more if found.value > 0 else less
    return Difference(found.value, found.low, found.high, verdict)


def _rate(hits: int, count: int) -> Estimate | None:
    if not count:
        return None
    found = confidence.rate(hits, count)
    return Estimate(found.value, found.low, found.high)


def _mean(numbers: Moments) -> Estimate | None:
    """Estimate a mean. The interval needs `FEWEST` numbers that are not too large to be squared."""
    if not numbers.count or not isfinite(numbers.mean):
        return None
    found = confidence.mean(numbers)
    if numbers.count < FEWEST or not isfinite(found.high - found.low):
        return Estimate(numbers.mean, None, None)
    return Estimate(found.value, found.low, found.high)


def _shadow(counted: ShadowCounts) -> ShadowComparison:
    errors = {code: count for code, count in counted.outcomes.items() if code not in (COMPARED, INCOMPARABLE)}
    answered = sum(counted.outcomes.values()) - sum(errors.values())
    # Rejected input counts against a shadow: the caller's version accepted it.
    faults = sum(count for code, count in errors.items() if is_fault(code) or code == InvalidInput.code)
    slower, differences = counted.slower, counted.differences
    return ShadowComparison(
        requests=answered,
        rows=counted.rows,
        mismatch_rate=_rate(counted.mismatched_rows, counted.rows),
        difference=_mean(differences),
        largest=counted.largest if differences.count else None,
        relative=counted.relative.mean if differences.count else None,
        latency_s=(
            _verdict(confidence.mean(slower), "slower", "faster", enough=slower.count >= FEWEST)
            if slower.count
            else None
        ),
        error_rate=_rate(faults, answered + faults),
        errors=errors,
        dropped=dict(counted.dropped),
        since=_time(counted.since),
        until=_time(counted.until),
    )
