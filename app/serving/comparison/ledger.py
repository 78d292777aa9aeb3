"""The one place where a gateway replica counts requests, batches, errors and shadow requests.

`Ledger` is the `app.serving.ports.Recorder` of the prediction service. `app.metrics.predictions` exports its totals to
Prometheus; `Ledger.statistics` returns the counts of one version, for comparisons and automatic rollback.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from app.errors import InvalidReference, ModelNotFound, RegistryUnavailable
from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison.error_attribution import is_fault
from app.serving.comparison.statistics import ShadowCounts, ShadowPair, ShadowResult, Statistics, VariantCounts
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.releases.traffic import Traffic

OTHER = "other"
UNKNOWN = "unknown"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_RELATIVE = (0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)

_MAX_NAMES = 1000
_MAX_VERSIONS = 4096
"""Versions that have totals, a hundred Prometheus series each. Each rollout adds one, and the oldest is forgotten."""
_MAX_PAIRS = 4096
"""Pairs of versions that have totals of shadow requests. Each new shadow adds one, and the oldest is forgotten."""
_UNRESOLVED = frozenset({InvalidReference.code, ModelNotFound.code, RegistryUnavailable.code})
"""Errors of requests whose model may not exist, even where the request names a version."""

_NONE = Statistics(replicas=1)
_Counts = TypeVar("_Counts", VariantCounts, ShadowCounts)


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
    errors: dict[str, int] = field(default_factory=dict)
    batch_seconds: Distribution = field(default_factory=_seconds)
    batch_rows: Distribution = field(default_factory=_rows)
    batch_requests: Distribution = field(default_factory=_rows)
    batch_waits: Distribution = field(default_factory=_seconds)
    in_flight_bound: int = 0
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


class _Epoch:
    """Counts of one model since its traffic last changed."""

    __slots__ = ("shadows", "since", "traffic", "until", "variants")

    def __init__(self, traffic: Traffic, since: float) -> None:
        self.traffic = traffic
        self.since = self.until = since
        self.variants: defaultdict[str, VariantCounts] = defaultdict(VariantCounts)
        self.shadows: defaultdict[ShadowPair, ShadowCounts] = defaultdict(ShadowCounts)

    def statistics(self, version: str) -> Statistics:
        variant = self.variants.get(version)
        shadows = {pair.version: self._dated(one) for pair, one in self.shadows.items() if pair.shadow == version}
        return replace(_NONE, variant=self._dated(variant) if variant is not None else VariantCounts(), shadows=shadows)

    def _dated(self, counts: _Counts) -> _Counts:
        return replace(deepcopy(counts), since=self.since, until=self.until)


class Ledger:
    """Counts by model and version. Call its methods on one event loop; other threads may copy its public dicts.

    `versions`, `shadows` and `unresolved` (errors by model and code, of requests without a version) hold totals since
    the replica started, by the labels that Prometheus shows. Callers choose model names, so labels are bounded: a name
    that the registry has not confirmed is counted as ``unknown``, new names beyond a thousand as ``other``, and the
    oldest version gives way to one too many.

    An *epoch* holds the counts of one model since its traffic last changed. Requests of other times, or of other
    weights, fell on the versions unevenly and would look like a difference between them.

    Args:
        traffic: the current traffic of a model. Requests that began under another traffic are not in the epoch.
        wall: seconds since 1970.
    """

    def __init__(
        self, traffic: Callable[[str], Traffic | None] = lambda _: None, wall: Callable[[], float] = time.time
    ) -> None:
        self._traffic = traffic
        self._wall = wall
        self.created = wall()
        self.versions: dict[ModelVersion, VersionTotals] = {}
        self.shadows: dict[ShadowPair, ShadowTotals] = {}
        self.unresolved: dict[tuple[str, str], int] = {}
        self._names: set[str] = set()
        self._epochs: dict[str, _Epoch] = {}

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.rows += rows
        totals.seconds.add(seconds)
        totals.seconds_squared += seconds * seconds

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        if version is None or (code in _UNRESOLVED and name not in self._names):
            key = (name if name in self._names else UNKNOWN, code)
            self.unresolved[key] = self.unresolved.get(key, 0) + 1
        else:
            errors = (self.versions.get(version) or self._version(version)).errors
            errors[code] = errors.get(code, 0) + 1

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.batch_seconds.add(batch.seconds)
        totals.batch_rows.add(batch.rows)
        totals.batch_requests.add(batch.parts)
        totals.batch_waits.add(batch.waited_s)
        totals.in_flight_bound = batch.in_flight_bound

    def divided(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        self._variant(version).add(seconds, prediction)
        epoch = self._epoch(version.name, traffic)
        if epoch is not None:
            epoch.variants[version.version].add(seconds, prediction)

    def divided_failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        epoch = self._epoch(version.name, traffic)
        if is_fault(code):
            self._variant(version).faults += 1
            if epoch is not None:
                epoch.variants[version.version].faults += 1

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        self._shadow(pair).add(result)
        epoch = self._epoch(pair.name, traffic)
        if epoch is not None:
            epoch.shadows[pair].add(result)

    def shadow_dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        self._shadow(pair).counts.drop(cause)
        epoch = self._epoch(pair.name, traffic)
        if epoch is not None:
            epoch.shadows[pair].drop(cause)

    def follow(self, before: ReleaseTable, table: ReleaseTable) -> None:
        """Adopt a new release table: end the counts of deleted models, and epochs whose traffic has changed.

        An epoch stays when its model's traffic ends, until the model has traffic again.
        """
        gone = table.renewed(before)
        for name in list(self._epochs):
            old, new = before.releases.get(name), table.releases.get(name)
            traffic = new.traffic if new is not None else None
            if name in gone or (traffic is not None and (old is None or old.traffic != traffic)):
                del self._epochs[name]
        gone &= self._names
        if gone:
            self._names -= gone
            self.versions = {version: one for version, one in self.versions.items() if version.name not in gone}
            self.shadows = {pair: one for pair, one in self.shadows.items() if pair.name not in gone}
            self.unresolved = {key: count for key, count in self.unresolved.items() if key[0] not in gone}

    def statistics(self, version: ModelVersion) -> Statistics:
        """Return this replica's counts of a version; a model that is counted as ``other`` has none of its own."""
        counted = self._epochs[version.name].statistics(version.version) if version.name in self._epochs else _NONE
        totals = self.versions.get(version)
        if totals is None or version.name == OTHER:
            return counted
        return replace(
            counted,
            requests=totals.seconds.count,
            rows=totals.rows,
            failures=sum(totals.errors.values()),
            batches=totals.batch_seconds.count,
            request_seconds=totals.seconds.total,
            batch_seconds=totals.batch_seconds.total,
            request_seconds_squared=totals.seconds_squared,
            faults=sum(number for code, number in totals.errors.items() if is_fault(code)),
        )

    def _label(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= _MAX_NAMES:
            return OTHER
        self._names.add(name)
        return name

    def _version(self, version: ModelVersion) -> VersionTotals:
        key = ModelVersion(self._label(version.name), version.version)
        totals = self.versions.get(key)
        if totals is None:
            if len(self.versions) >= _MAX_VERSIONS:
                oldest = next(iter(self.versions))
                del self.versions[oldest]
                for pair in [pair for pair in self.shadows if (pair.name, pair.version) == oldest]:
                    del self.shadows[pair]
            totals = self.versions[key] = VersionTotals(self._wall())
        return totals

    def _variant(self, version: ModelVersion) -> VariantTotals:
        totals = self.versions.get(version) or self._version(version)
        if totals.variant is None:
            totals.variant = VariantTotals(self._wall())
        return totals.variant

    def _shadow(self, pair: ShadowPair) -> ShadowTotals:
        key = pair._replace(name=self._label(pair.name))
        totals = self.shadows.get(key)
        if totals is None:
            if len(self.shadows) >= _MAX_PAIRS:
                del self.shadows[next(iter(self.shadows))]
            totals = self.shadows[key] = ShadowTotals(self._wall())
        return totals

    def _epoch(self, name: str, traffic: Traffic) -> _Epoch | None:
        """Return where to count a request that began under this traffic; None where that is no longer current."""
        current = self._traffic(name)
        if current is None or (current is not traffic and current != traffic):
            return None
        now = self._wall()
        epoch = self._epochs.get(name)
        if epoch is None or (epoch.traffic is not current and epoch.traffic != current):
            epoch = self._epochs[name] = _Epoch(current, now)
        epoch.until = now
        epoch.traffic = current  # equal, and identical to the object of the next requests: a faster comparison
        return epoch
