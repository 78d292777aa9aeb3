"""Prometheus metrics of predictions, which each gateway replica reads from its ledger when it is scraped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from app.serving.comparison.ledger import UNKNOWN, Ledger
from app.serving.comparison.totals import Distribution, Sums


class _Family(NamedTuple):
    """One metric. `value` is an attribute of the totals; where that is a dict, its keys are values of label `by`."""

    name: str
    type: str
    value: str
    help: str
    by: str = ""

    def metric(self) -> Metric:
        return Metric(self.name, self.help, self.type)

    def samples(self, labels: dict[str, str], totals: Any) -> Iterator[Sample]:
        value = attrgetter(self.value)(totals)
        for key, one in value.copy().items() if self.by else (("", value),):
            yield from self._of_child({**labels, self.by: key} if self.by else labels, one, totals.created)

    def _of_child(self, labels: dict[str, str], value: Any, created: float) -> Iterator[Sample]:
        if isinstance(value, Distribution):
            cumulative = list(accumulate(value.buckets))
            for bound, count in zip(_shown(value.bounds), cumulative, strict=True):
                yield Sample(f"{self.name}_bucket", {**labels, "le": bound}, count)
            yield Sample(f"{self.name}_count", labels, cumulative[-1])
            yield Sample(f"{self.name}_sum", labels, value.total)
        elif isinstance(value, Sums):
            yield Sample(f"{self.name}_count", labels, value.count)
            yield Sample(f"{self.name}_sum", labels, value.total)
        else:
            yield Sample(f"{self.name}_total" if self.type == "counter" else self.name, labels, value)
        if self.type != "gauge" and getattr(metrics, "_use_created", True):
            yield Sample(f"{self.name}_created", labels, created)


_ERRORS = _Family("ml_serve_errors", "counter", "errors", "Requests that failed, by error code.", by="code")
_OF_VERSION = (
    _Family("ml_serve_requests", "counter", "seconds.count", "Requests that were answered without an error."),
    _Family("ml_serve_rows", "counter", "rows", "Rows that were predicted."),
    _Family("ml_serve_request_seconds", "histogram", "seconds", "Time to answer a request."),
    _Family("ml_serve_batch_seconds", "histogram", "batch_seconds", "Time to predict one batch."),
    _Family("ml_serve_batch_rows", "histogram", "batch_rows", "Rows in one batch."),
    _Family("ml_serve_batch_requests", "histogram", "batch_requests", "Requests in one batch."),
    _Family("ml_serve_batch_wait_seconds", "histogram", "batch_waits", "Time that a batch's oldest rows waited."),
    _Family("ml_serve_repeated_requests", "counter", "repeated", "Requests predicted again, alone: not row-wise."),
    _Family("ml_serve_streams", "gauge", "streams", "Streams in progress."),
    _Family("ml_serve_stream_events", "counter", "stream_events", "Events of streams that have ended."),
    _Family("ml_serve_batches_in_flight_bound", "gauge", "in_flight_bound", "Most batches in flight at the same time."),
)
_OF_VARIANT = (
    _Family("ml_serve_variant_seconds", "summary", "seconds", "Time to answer a request for a bare model name."),
    _Family("ml_serve_variant_seconds_squared", "counter", "seconds.squares", "Sum of the squares of these times."),
    _Family("ml_serve_variant_prediction", "summary", "predictions", "Mean of the numbers in an answer."),
    _Family("ml_serve_variant_prediction_squared", "counter", "predictions.squares", "Sum of squares of these means."),
    _Family("ml_serve_variant_faults", "counter", "faults", "Errors that count against the version."),
)
_OF_PAIR = (
    _Family("ml_serve_shadow_requests", "counter", "counts.outcomes", "Shadow requests, by outcome.", by="outcome"),
    _Family("ml_serve_shadow_dropped", "counter", "counts.dropped", "Shadow requests that were not sent.", by="cause"),
)
_OF_ANSWERED_PAIR = (
    _Family("ml_serve_shadow_rows", "counter", "counts.rows", "Rows of answered shadow requests."),
    _Family("ml_serve_shadow_mismatched_rows", "counter", "counts.mismatched_rows", "Rows with another label or form."),
    _Family("ml_serve_shadow_difference", "summary", "differences", "Mean absolute difference of an answer."),
    _Family("ml_serve_shadow_difference_largest", "gauge", "counts.largest", "Largest absolute difference."),
    _Family("ml_serve_shadow_relative_difference", "histogram", "relative", "Mean relative difference of an answer."),
    _Family("ml_serve_shadow_seconds", "histogram", "seconds", "Time of a shadow to answer."),
    _Family("ml_serve_shadow_slower_seconds", "summary", "slower", "Time of a shadow minus the time of the caller's."),
)


class PredictionMetrics(Collector):
    """Metrics by model and version, those of shadow requests by pair of versions."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry = REGISTRY) -> None:
        self._ledger = ledger
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples, by which the registry finds names that are used twice."""
        return (family.metric() for family in (_ERRORS, *_OF_VERSION, *_OF_VARIANT, *_OF_PAIR, *_OF_ANSWERED_PAIR))

    def collect(self) -> Iterator[Metric]:
        """Return all families. Runs in a thread beside the event loop, which goes on counting."""
        versions, shadows = self._ledger.versions.copy(), self._ledger.shadows.copy()
        variants = {key: one.variant for key, one in versions.items() if one.variant is not None}
        answered = {key: one for key, one in shadows.items() if one.seconds.count}
        yield self._errors(versions)
        for families, totals, names in (
            (_OF_VERSION, versions, ("model", "version")),
            (_OF_VARIANT, variants, ("model", "version")),
            (_OF_PAIR, shadows, ("model", "version", "shadow_version")),
            (_OF_ANSWERED_PAIR, answered, ("model", "version", "shadow_version")),
        ):
            labelled = [(dict(zip(names, key, strict=True)), one) for key, one in totals.items()]
            for family in families:
                metric = family.metric()
                for labels, one in labelled:
                    metric.samples.extend(family.samples(labels, one))
                yield metric

    def _errors(self, versions: Mapping[Any, Any]) -> Metric:
        metric = _ERRORS.metric()
        for (model, code), count in self._ledger.unresolved.copy().items():
            labels = {"model": model, "version": UNKNOWN, "code": code}
            metric.samples.extend(_ERRORS._of_child(labels, count, self._ledger.created))
        for (model, version), totals in versions.items():
            metric.samples.extend(_ERRORS.samples({"model": model, "version": version}, totals))
        return metric


@lru_cache
def _shown(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(map(floatToGoString, (*bounds, float("inf"))))
