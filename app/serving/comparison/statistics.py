"""Counts of one model version, summed over gateway replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.serving.comparison.counters import NOTHING_COPIED, NOTHING_DIVIDED, ShadowCounts, VariantCounts


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was counted for one model version since its gateway replicas started.

    `requests` were answered, in `request_seconds` together, and there is the sum of their squares; `failures` were
    answered with an error after the version was known, and `faults` are those among them that count against it
    (`app.serving.comparison.error_attribution`). `replicas` is how many gateway replicas have told. `variant` and
    `shadows` (by the version
    whose requests were copied) are of models with traffic, since that last changed.
    """

    requests: int = 0
    rows: int = 0
    failures: int = 0
    batches: int = 0
    request_seconds: float = 0.0
    batch_seconds: float = 0.0
    faults: int = 0
    replicas: int = 0
    variant: VariantCounts = NOTHING_DIVIDED
    shadows: Mapping[str, ShadowCounts] = field(default_factory=dict)
    request_seconds_squared: float = 0.0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.requests + other.requests,
            self.rows + other.rows,
            self.failures + other.failures,
            self.batches + other.batches,
            self.request_seconds + other.request_seconds,
            self.batch_seconds + other.batch_seconds,
            self.faults + other.faults,
            self.replicas + other.replicas,
            self.variant + other.variant,
            {
                version: self.shadows.get(version, NOTHING_COPIED) + other.shadows.get(version, NOTHING_COPIED)
                for version in {*self.shadows, *other.shadows}
            },
            self.request_seconds_squared + other.request_seconds_squared,
        )
