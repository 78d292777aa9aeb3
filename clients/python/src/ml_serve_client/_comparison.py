"""What ``compare`` answers: two versions of a model and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Any
"""A decoded JSON body; a wrong shape shows as the error of reading it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a mean, between `low` and `high` at 95 %; None where its spread is not known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The other version less the base, between `low` and `high` at 95 %, and in words what that means."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """One of the two: what was counted from `since` to `until` (ISO 8601; None: since the gateway started).

    `faults` are errors that count against the version, not those of callers. `latency_s` is in seconds, `prediction`
    the mean over requests of the numbers in each answer.
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
    """Copies of the base's requests that the other version got.

    It answered `requests`, with `rows` in them; `mismatch_rate` is the share of rows with another label or form.
    `difference` (mean), `largest` and `relative` (mean) are absolute differences of numbers; `latency_s` is how much
    longer it took. `errors` counts other copies by code, `dropped` those not sent by cause.
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
    """Two versions compared: differences are None where there is nothing to tell them from.

    `counted` is ``divided`` where chance has dealt the calls to the versions, and ``all`` where callers have.
    """

    model: str
    level: float
    counted: str
    base: ComparedVersion
    other: ComparedVersion
    error_rate: Difference | None
    latency_s: Difference | None
    prediction: Difference | None
    shadow: ShadowComparison | None


def comparison(body: Json) -> Comparison:
    """Read the answer of ``GET /v1/models/{name}/compare``."""
    return Comparison(
        model=body["model_name"],
        level=body["level"],
        counted=body["counted"],
        base=_version(body["base"]),
        other=_version(body["other"]),
        error_rate=_difference(body["error_rate"]),
        latency_s=_difference(body["latency_s"]),
        prediction=_difference(body["prediction"]),
        shadow=_shadow(body["shadow"]) if body["shadow"] is not None else None,
    )


def _version(item: Json) -> ComparedVersion:
    return ComparedVersion(
        reference=item["reference"],
        version=item["version"],
        requests=item["requests"],
        faults=item["faults"],
        error_rate=_estimate(item["error_rate"]),
        latency_s=_estimate(item["latency_s"]),
        prediction=_estimate(item["prediction"]),
        since=item["since"],
        until=item["until"],
    )


def _shadow(item: Json) -> ShadowComparison:
    return ShadowComparison(
        requests=item["requests"],
        rows=item["rows"],
        mismatch_rate=_estimate(item["mismatch_rate"]),
        difference=_estimate(item["difference"]),
        largest=item["largest"],
        relative=item["relative"],
        latency_s=_difference(item["latency_s"]),
        error_rate=_estimate(item["error_rate"]),
        errors=dict(item["errors"]),
        dropped=dict(item["dropped"]),
        since=item["since"],
        until=item["until"],
    )


def _estimate(item: Json) -> Estimate | None:
    return None if item is None else Estimate(item["value"], item["low"], item["high"])


def _difference(item: Json) -> Difference | None:
    return None if item is None else Difference(item["value"], item["low"], item["high"], item["verdict"])
