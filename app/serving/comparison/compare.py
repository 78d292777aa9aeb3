"""Two versions of a model compared by what the gateways counted: rates and means with intervals at 95 %, in words too.

``GET /v1/models/{name}/compare`` answers it. Pure: `Statistics` in, a `Comparison` out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from app.serving import confidence
from app.serving.comparison.error_attribution import is_fault_of_copy
from app.serving.comparison.statistics import COMPARED, INCOMPARABLE, ShadowCounts, Statistics
from app.serving.confidence import Interval, Moments

NOTHING_YET = "no difference can be told yet"
FEWEST = 30
"""Numbers that a mean needs, on each side, before its normal approximation is believed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a mean, and the ends of its interval; None where its spread is not known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions. Latency in seconds; `prediction` is the mean over requests of each answer's mean."""

    version: str
    requests: int
    faults: int
    error_rate: Estimate | None
    latency_s: Estimate | None
    prediction: Estimate | None
    since: float | None
    until: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The other version less the base, and in words what that means."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Copies of the base's requests that the other version got.

    `requests` are those that it answered, `mismatch_rate` the share of their rows with another label or another form,
    `difference`, `largest` and `relative` are of their numbers, `latency_s` is what it took more than the base.
    `errors` counts further copies by the code of their error, `dropped` those that were not sent by cause.
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
    since: float | None
    until: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two versions differ in.

    `counted` says which calls it is about: ``divided`` are those of the bare name since its traffic last changed, which
    chance has dealt to the versions; ``all`` are all calls since the gateways started, where one of the versions had
    none of the former. Then callers have chosen the version, at different times perhaps, and latencies have no spread.
    """

    counted: Literal["divided", "all"]
    base: Side
    other: Side
    error_rate: Difference | None
    latency_s: Difference | None
    prediction: Difference | None
    shadow: ShadowComparison | None


def compare(base_version: str, base: Statistics, other_version: str, other: Statistics) -> Comparison:
    """Compare a version with the base."""
    are_divided = all(one.variant.seconds.count + one.variant.faults > 0 for one in (base, other))
    side = _divided if are_divided else _of_all
    mine, theirs = side(other_version, other), side(base_version, base)
    shadow = other.shadows.get(base_version)
    return Comparison(
        counted="divided" if are_divided else "all",
        base=theirs,
        other=mine,
        error_rate=_rates(mine, theirs),
        latency_s=_means(other.variant.seconds, base.variant.seconds, "slower", "faster") if are_divided else None,
        prediction=(
            _means(other.variant.predictions, base.variant.predictions, "higher", "lower") if are_divided else None
        ),
        shadow=_shadow(shadow) if shadow is not None else None,
    )


def _divided(version: str, counted: Statistics) -> Side:
    variant = counted.variant
    requests = variant.seconds.count + variant.faults
    return Side(
        version,
        requests,
        variant.faults,
        _rate(variant.faults, requests),
        _mean(variant.seconds),
        _mean(variant.predictions),
        variant.since,
        variant.until,
    )


def _of_all(version: str, counted: Statistics) -> Side:
    requests = counted.requests + counted.faults
    mean_s = counted.request_seconds / counted.requests if counted.requests else None
    return Side(
        version,
        requests,
        counted.faults,
        _rate(counted.faults, requests),
        Estimate(mean_s, None, None) if mean_s is not None else None,
        None,
        None,
        None,
    )


def _rates(mine: Side, base: Side) -> Difference | None:
    if not mine.requests or not base.requests:
        return None
    found = confidence.rate_difference(mine.faults, mine.requests, base.faults, base.requests)
    return _told(found, "more errors", "fewer errors", enough=True)


def _means(mine: Moments, base: Moments, more: str, less: str) -> Difference | None:
    if not mine.count or not base.count:
        return None
    found = confidence.mean_difference(mine, base)
    if not isfinite(found.high - found.low):  # numbers too large to be squared
        return None
    return _told(found, more, less, enough=min(mine.count, base.count) >= FEWEST)


def _told(found: Interval, more: str, less: str, *, enough: bool) -> Difference:
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
    """A mean; its interval only where the numbers suffice for one and are not too large to be squared."""
    if not numbers.count or not isfinite(numbers.mean):
        return None
    found = confidence.mean(numbers)
    if numbers.count < FEWEST or not isfinite(found.high - found.low):
        return Estimate(numbers.mean, None, None)
    return Estimate(found.value, found.low, found.high)


def _shadow(counted: ShadowCounts) -> ShadowComparison:
    errors = {code: count for code, count in counted.outcomes.items() if code not in (COMPARED, INCOMPARABLE)}
    answered = sum(counted.outcomes.values()) - sum(errors.values())
    faults = sum(count for code, count in errors.items() if is_fault_of_copy(code))
    slower, differences = counted.slower, counted.differences
    return ShadowComparison(
        requests=answered,
        rows=counted.rows,
        mismatch_rate=_rate(counted.mismatched_rows, counted.rows),
        difference=_mean(differences),
        largest=counted.largest if differences.count else None,
        relative=counted.relative.mean if differences.count else None,
        latency_s=(
            _told(confidence.mean(slower), "slower", "faster", enough=slower.count >= FEWEST) if slower.count else None
        ),
        error_rate=_rate(faults, answered + faults),
        errors=errors,
        dropped=dict(counted.dropped),
        since=counted.since,
        until=counted.until,
    )
