"""The one place where a gateway replica counts requests, batches, errors and shadow requests.

`Ledger` is the `app.serving.ports.Recorder` of the prediction service. `app.metrics.predictions` exports its totals to
Prometheus; `Ledger.statistics` returns the counts of one version, for comparisons and automatic rollback.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TypeVar

from app.errors import InvalidReference, ModelNotFound, RegistryUnavailable
from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison.error_attribution import is_fault
from app.serving.comparison.statistics import ShadowCounts, ShadowPair, ShadowResult, Statistics, VariantCounts
from app.serving.comparison.totals import ShadowTotals, VariantTotals, VersionTotals
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.releases.traffic import Traffic

OTHER = "other"
UNKNOWN = "unknown"

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
class _Epoch:
    """Counts of one model since its traffic last changed."""

    traffic: Traffic
    since: float
    until: float
    variants: defaultdict[str, VariantCounts] = field(default_factory=lambda: defaultdict(VariantCounts))
    shadows: defaultdict[ShadowPair, ShadowCounts] = field(default_factory=lambda: defaultdict(ShadowCounts))

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
        self.unresolved: Counter[tuple[str, str]] = Counter()
        self._names: set[str] = set()
        self._epochs: dict[str, _Epoch] = {}

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.rows += rows
        totals.seconds.add(seconds)
        totals.seconds_squared += seconds * seconds

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        if version is None or (code in _UNRESOLVED and name not in self._names):
            self.unresolved[name if name in self._names else UNKNOWN, code] += 1
        else:
            totals = self.versions.get(version) or self._version(version)
            totals.errors[code] += 1

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.batch_seconds.add(batch.seconds)
        totals.batch_rows.add(batch.rows)
        totals.batch_requests.add(batch.parts)
        totals.batch_waits.add(batch.waited_s)
        totals.in_flight_bound = batch.in_flight_bound

    def repeated(self, version: ModelVersion, requests: int) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.repeated += requests

    def stream_started(self, version: ModelVersion) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.streams += 1

    def stream_ended(self, version: ModelVersion, events: int) -> None:
        totals = self.versions.get(version) or self._version(version)
        totals.streams = max(0, totals.streams - 1)  # the version's totals may be newer than the stream
        totals.stream_events += events

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
            self.unresolved = Counter({key: count for key, count in self.unresolved.items() if key[0] not in gone})

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
            failures=totals.errors.total(),
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
            epoch = self._epochs[name] = _Epoch(current, now, now)
        epoch.until = now
        epoch.traffic = current  # equal, and identical to the object of the next requests: a faster comparison
        return epoch
