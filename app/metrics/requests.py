"""Prometheus metrics of the models, recorded by each gateway replica."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from app.errors import InvalidReference, ModelNotFound, RegistryUnavailable
from app.metrics.traffic import TrafficMetrics
from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison.counters import ShadowPair, ShadowResult, TrafficTally
from app.serving.comparison.error_attribution import is_fault
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.releases.traffic import Traffic

_LABELS = ("model", "version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_MAX_NAMES = 1000
_MAX_VERSIONS = 4096
"""Versions that have metrics, 20 kB and a hundred series each. Each switch adds one, and the oldest is forgotten."""
_OTHER = "other"
_UNKNOWN = "unknown"
_UNRESOLVED = frozenset({InvalidReference.code, ModelNotFound.code, RegistryUnavailable.code})
"""Errors of requests whose model may not exist at all, even where the version is named."""


class _Spread:
    """The sum of squares of the seconds of answered requests, which a histogram does not have."""

    __slots__ = ("squares",)

    def __init__(self) -> None:
        self.squares = 0.0


class _Meters(NamedTuple):
    """Those of one version, and the label that its model has."""

    model: str
    requests: Counter
    rows: Counter
    seconds: Histogram
    errors: dict[str, Counter]
    calls: Histogram
    batch_rows: Histogram
    batch_requests: Histogram
    waits: Histogram
    bound: Gauge
    spread: _Spread


class PrometheusRecorder:
    """Counts predictions, errors and batches by model and version.

    Names come from callers, so they are bounded: a name that the registry has not confirmed is counted as ``unknown``,
    and beyond a thousand different ones new ones are counted as ``other``. Versions are bounded too: where one too many
    is counted, the metrics of the oldest one end.

    Args:
        registry: where the metrics are.
        traffic: what is in force for a model now.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, traffic: Callable[[str], Traffic | None] = lambda _: None
    ) -> None:
        self._registry = registry
        self._tally = TrafficTally(traffic)
        self._traffic = TrafficMetrics(registry, self._bounded)
        self._requests = Counter("ml_serve_requests", "Requests answered without an error.", _LABELS, registry=registry)
        self._rows = Counter("ml_serve_rows", "Rows predicted.", _LABELS, registry=registry)
        self._errors = Counter(
            "ml_serve_errors", "Requests answered with an error.", (*_LABELS, "code"), registry=registry
        )

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, _LABELS, buckets=buckets, registry=registry)

        self._seconds = histogram("ml_serve_request_seconds", "Time to answer a request.", _SECONDS)
        self._calls = histogram("ml_serve_batch_seconds", "Time to predict one batch.", _SECONDS)
        self._batch_rows = histogram("ml_serve_batch_rows", "Rows in one batch.", _ROWS)
        self._batch_requests = histogram("ml_serve_batch_requests", "Requests in one batch.", _ROWS)
        self._waits = histogram(
            "ml_serve_batch_wait_seconds", "Time that the first rows of a batch had waited.", _SECONDS
        )
        self._bounds = Gauge(
            "ml_serve_batches_in_flight_bound", "Batches that may be under way at once.", _LABELS, registry=registry
        )
        self._by_version: tuple[Counter | Gauge | Histogram, ...] = (
            self._requests, self._rows, self._seconds, self._calls, self._batch_rows,
            self._batch_requests, self._waits, self._bounds,
        )  # fmt: skip
        self._versions: dict[ModelVersion, _Meters] = {}
        self._names: set[str] = set()

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        meters = self._versions.get(version) or self._of(version)
        meters.requests.inc()
        meters.rows.inc(rows)
        meters.seconds.observe(seconds)
        meters.spread.squares += seconds * seconds

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        if (version is None or code in _UNRESOLVED) and name not in self._names:
            self._errors.labels(_UNKNOWN, _UNKNOWN, code).inc()
        elif version is None:
            self._errors.labels(self._bounded(name), _UNKNOWN, code).inc()
        else:
            meters = self._versions.get(version) or self._of(version)
            error = meters.errors.get(code)
            if error is None:
                error = meters.errors[code] = self._errors.labels(meters.model, version.version, code)
            error.inc()

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        meters = self._versions.get(version) or self._of(version)
        meters.calls.observe(batch.seconds)
        meters.batch_rows.observe(batch.rows)
        meters.batch_requests.observe(batch.parts)
        meters.waits.observe(batch.waited_s)
        meters.bound.set(batch.in_flight_bound)

    def divided(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        self._tally.answered(version, traffic, seconds, prediction)
        self._traffic.answered(version, seconds, prediction)

    def divided_failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        self._tally.failed(version, traffic, code)
        if is_fault(code):
            self._traffic.faulted(version)

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        self._tally.shadowed(pair, traffic, result)
        self._traffic.shadowed(pair, result)

    def shadow_dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        self._tally.dropped(pair, traffic, cause)
        self._traffic.dropped(pair, cause)

    def follow(self, before: ReleaseTable, table: ReleaseTable) -> None:
        """Another release table is in force: nothing stays of models that are gone, or that others have the name of."""
        self._tally.follow(before, table)
        for name in table.renewed(before) & self._names:
            for metric in (*self._by_version, self._errors):
                metric.remove_by_labels({"model": name})
            self._names.discard(name)
            # A name is free: who is among the others now may have it.
            known = self._versions.items()
            self._versions = {version: one for version, one in known if one.model not in (name, _OTHER)}
            self._traffic.forget_model(name)

    def statistics(self, version: ModelVersion) -> Statistics:
        """What this replica has counted, read from the metrics: nothing for a model that is counted as ``other``."""
        counted = Statistics(replicas=1, variant=self._tally.variant(version), shadows=self._tally.shadows(version))
        meters = self._versions.get(version)
        if meters is None or meters.model == _OTHER:
            return counted
        errors = {code: int(_value(error, "_total")) for code, error in meters.errors.items()}
        return replace(
            counted,
            requests=int(_value(meters.requests, "_total")),
            rows=int(_value(meters.rows, "_total")),
            failures=sum(errors.values()),
            batches=int(_value(meters.calls, "_count")),
            request_seconds=_value(meters.seconds, "_sum"),
            batch_seconds=_value(meters.calls, "_sum"),
            request_seconds_squared=meters.spread.squares,
            faults=sum(number for code, number in errors.items() if is_fault(code)),
        )

    def _of(self, version: ModelVersion) -> _Meters:
        if len(self._versions) >= _MAX_VERSIONS:
            oldest = next(iter(self._versions))
            forgotten = self._versions.pop(oldest)
            if forgotten.model != _OTHER:  # whose counts are of several models
                self._forget(oldest, forgotten.errors)
        model = self._bounded(version.name)
        labels = (model, version.version)
        meters = self._versions[version] = _Meters(
            model,
            self._requests.labels(*labels),
            self._rows.labels(*labels),
            self._seconds.labels(*labels),
            {},
            self._calls.labels(*labels),
            self._batch_rows.labels(*labels),
            self._batch_requests.labels(*labels),
            self._waits.labels(*labels),
            self._bounds.labels(*labels),
            _Spread(),
        )
        return meters

    def _forget(self, version: ModelVersion, codes: Iterable[str]) -> None:
        for metric in self._by_version:
            metric.remove(*version)
        for code in codes:
            self._errors.remove(*version, code)
        self._traffic.forget(version)

    def _bounded(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= _MAX_NAMES:
            return _OTHER
        self._names.add(name)
        return name


def _value(meter: Counter | Histogram, suffix: str) -> float:
    """One number of a meter that has all of its labels. Asking the registry would collect all that there is."""
    return next(one.value for family in meter.collect() for one in family.samples if one.name.endswith(suffix))
