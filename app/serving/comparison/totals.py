"""Totals of one version, or of one pair of versions, since the replica started: what the `Ledger` keeps per label."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from app.serving.comparison.statistics import ShadowCounts, ShadowResult

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_RELATIVE = (0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


@dataclass(slots=True)
class Sums:
    """Count, sum and sum of squares of some numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, number: float) -> None:
        self.count += 1
        self.total += number
        self.squares += number * number


class Distribution:
    """How many numbers each bucket holds, and their sum. `bounds` are the upper bounds of all buckets but the last."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, number: float) -> None:
        self.buckets[bisect_left(self.bounds, number)] += 1
        self.total += number

    @property
    def count(self) -> int:
        return sum(self.buckets)


_seconds, _rows, _relative = (partial(Distribution, bounds) for bounds in (_SECONDS, _ROWS, _RELATIVE))


@dataclass(slots=True)
class VariantTotals:
    """Requests for a bare model name that one version answered while the model had traffic or a shadow."""

    created: float
    faults: int = 0
    seconds: Sums = field(default_factory=Sums)
    predictions: Sums = field(default_factory=Sums)

    def add(self, seconds: float, prediction: float | None) -> None:
        self.seconds.add(seconds)
        if prediction is not None:
            self.predictions.add(prediction)


@dataclass(slots=True)
class VersionTotals:
    """Requests, errors (by code) and batches of one version. `created` is in seconds since 1970."""

    created: float
    rows: int = 0
    seconds: Distribution = field(default_factory=_seconds)
    seconds_squared: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    batch_seconds: Distribution = field(default_factory=_seconds)
    batch_rows: Distribution = field(default_factory=_rows)
    batch_requests: Distribution = field(default_factory=_rows)
    batch_waits: Distribution = field(default_factory=_seconds)
    in_flight_bound: int = 0
    repeated: int = 0
    streams: int = 0
    stream_events: int = 0
    variant: VariantTotals | None = None


@dataclass(slots=True)
class ShadowTotals:
    """Shadow requests of one pair of versions."""

    created: float
    counts: ShadowCounts = field(default_factory=ShadowCounts)
    differences: Sums = field(default_factory=Sums)
    relative: Distribution = field(default_factory=_relative)
    seconds: Distribution = field(default_factory=_seconds)
    slower: Sums = field(default_factory=Sums)

    def add(self, result: ShadowResult) -> None:
        self.counts.add(result)
        if result.is_answered:
            self.seconds.add(result.seconds)
            self.slower.add(result.seconds - result.base_s)
        found = result.disagreement
        if found is not None and found.difference is not None:
            self.differences.add(found.difference)
            self.relative.add(found.relative or 0.0)
