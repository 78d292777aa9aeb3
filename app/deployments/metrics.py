"""Prometheus metrics of the models, recorded by each gateway replica."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from app.deployments.traffic_metrics import TrafficMetrics
from app.errors import InvalidReference, ModelNotFound, RegistryUnavailable
from app.serving.batching import AnsweredBatch
from app.serving.faults import is_fault
from app.serving.model_ref import ModelVersion
from app.serving.ports import Statistics
from app.serving.release_table import ReleaseTable
from app.serving.tally import ShadowPair, ShadowResult, TrafficTally
from app.serving.traffic import Traffic

_LABELS = ("model", "version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_MAX_NAMES = 1000
_OTHER = "other"
_UNKNOWN = "unknown"
_UNRESOLVED = frozenset({InvalidReference.code, ModelNotFound.code, RegistryUnavailable.code})
"""Errors of requests whose model may not exist at all."""


class PrometheusRecorder:
    """Counts predictions, errors and batches by model and version.

    Names come from callers, so they are bounded: a name that the registry has not confirmed is counted as ``unknown``,
    and beyond a thousand different ones new ones are counted as ``other``.

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
        self._answered: dict[ModelVersion, tuple[Counter, Counter, Histogram]] = {}
        self._called: dict[ModelVersion, tuple[Histogram, Histogram, Histogram, Histogram, Gauge]] = {}
        self._names: set[str] = set()

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        meters = self._answered.get(version)
        if meters is None:
            labels = (self._bounded(version.name), version.version)
            meters = self._answered[version] = (
                self._requests.labels(*labels),
                self._rows.labels(*labels),
                self._seconds.labels(*labels),
            )
        meters[0].inc()
        meters[1].inc(rows)
        meters[2].observe(seconds)

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        unknown = code in _UNRESOLVED and name not in self._names
        model = _UNKNOWN if unknown else self._bounded(name)
        self._errors.labels(model, _UNKNOWN if unknown or version is None else version.version, code).inc()

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        meters = self._called.get(version)
        if meters is None:
            labels = (self._bounded(version.name), version.version)
            meters = self._called[version] = (
                self._calls.labels(*labels),
                self._batch_rows.labels(*labels),
                self._batch_requests.labels(*labels),
                self._waits.labels(*labels),
                self._bounds.labels(*labels),
            )
        meters[0].observe(batch.seconds)
        meters[1].observe(batch.rows)
        meters[2].observe(batch.parts)
        meters[3].observe(batch.waited_s)
        meters[4].set(batch.in_flight_bound)

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
        """Another release table is in force."""
        self._tally.follow(before, table)

    def statistics(self, version: ModelVersion) -> Statistics:
        """What this replica has counted, read from the metrics: nothing for a model that is counted as ``other``."""
        labels = {"model": version.name, "version": version.version}

        def count(name: str) -> float:
            return self._registry.get_sample_value(name, labels) or 0.0

        errors = {
            sample.labels["code"]: int(sample.value)
            for metric in self._errors.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
        }
        return Statistics(
            requests=int(count("ml_serve_requests_total")),
            rows=int(count("ml_serve_rows_total")),
            failures=sum(errors.values()),
            batches=int(count("ml_serve_batch_seconds_count")),
            request_seconds=count("ml_serve_request_seconds_sum"),
            batch_seconds=count("ml_serve_batch_seconds_sum"),
            faults=sum(number for code, number in errors.items() if is_fault(code)),
            replicas=1,
            variant=self._tally.variant(version),
            shadows=self._tally.shadows(version),
        )

    def _bounded(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= _MAX_NAMES:
            return _OTHER
        self._names.add(name)
        return name
