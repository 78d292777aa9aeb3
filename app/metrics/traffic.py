"""Prometheus metrics of models whose calls are divided or copied. Others have none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from app.serving.comparison.counters import COMPARED, INCOMPARABLE, ShadowPair, ShadowResult
from app.serving.references import ModelVersion

_OF_VARIANT = ("model", "version")
_OF_SHADOW = ("model", "version", "shadow_version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RELATIVE = (0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


_MAX_PAIRS = 4096
"""Pairs of versions that have metrics of copies. Each new shadow makes one, and the oldest is forgotten."""

_Labelled: TypeAlias = Counter | Gauge | Histogram | Summary


class _Variant(NamedTuple):
    seconds: Summary
    seconds_squared: Counter
    prediction: Summary
    prediction_squared: Counter
    faults: Counter


class _Shadow(NamedTuple):
    rows: Counter
    mismatched_rows: Counter
    difference: Summary
    largest: Gauge
    relative: Histogram
    seconds: Histogram
    slower: Summary


class TrafficMetrics:
    """What `PrometheusRecorder` counts beside the rest.

    They grow from the start of the replica on; what begins anew with each change of traffic is
    `app.serving.comparison.counters.TrafficTally`.

    Args:
        bounded: the label of a model's name.
    """

    def __init__(self, registry: CollectorRegistry, bounded: Callable[[str], str]) -> None:
        self._bounded = bounded

        self._seconds = Summary(
            "ml_serve_variant_seconds", "Time to answer calls of bare names.", _OF_VARIANT, registry=registry
        )
        self._seconds_squared = Counter(
            "ml_serve_variant_seconds_squared", "Squares of these times.", _OF_VARIANT, registry=registry
        )
        self._prediction = Summary(
            "ml_serve_variant_prediction", "Means of the numbers in answers.", _OF_VARIANT, registry=registry
        )
        self._prediction_squared = Counter(
            "ml_serve_variant_prediction_squared", "Squares of these means.", _OF_VARIANT, registry=registry
        )
        self._faults = Counter(
            "ml_serve_variant_faults", "Errors that count against the version.", _OF_VARIANT, registry=registry
        )
        self._copies = Counter(
            "ml_serve_shadow_requests", "Copies, by how they ended.", (*_OF_SHADOW, "outcome"), registry=registry
        )
        self._dropped = Counter(
            "ml_serve_shadow_dropped", "Copies that were not sent.", (*_OF_SHADOW, "cause"), registry=registry
        )
        self._rows = Counter("ml_serve_shadow_rows", "Rows of answered copies.", _OF_SHADOW, registry=registry)
        self._mismatched_rows = Counter(
            "ml_serve_shadow_mismatched_rows", "Rows with another label or form.", _OF_SHADOW, registry=registry
        )
        self._difference = Summary(
            "ml_serve_shadow_difference", "Mean absolute difference of an answer.", _OF_SHADOW, registry=registry
        )
        self._largest = Gauge(
            "ml_serve_shadow_difference_largest", "Greatest absolute difference.", _OF_SHADOW, registry=registry
        )
        self._relative = Histogram(
            "ml_serve_shadow_relative_difference",
            "Mean relative difference of an answer.",
            _OF_SHADOW,
            buckets=_RELATIVE,
            registry=registry,
        )
        self._shadow_seconds = Histogram(
            "ml_serve_shadow_seconds", "Time to answer a copy.", _OF_SHADOW, buckets=_SECONDS, registry=registry
        )
        self._slower = Summary(
            "ml_serve_shadow_slower_seconds", "Time of a copy less its caller's.", _OF_SHADOW, registry=registry
        )
        self._by_variant: tuple[_Labelled, ...] = (
            self._seconds, self._seconds_squared, self._prediction, self._prediction_squared, self._faults,
        )  # fmt: skip
        self._by_pair: tuple[_Labelled, ...] = (
            self._copies, self._dropped, self._rows, self._mismatched_rows, self._difference, self._largest,
            self._relative, self._shadow_seconds, self._slower,
        )  # fmt: skip
        self._variants: dict[ModelVersion, _Variant] = {}
        self._shadows: dict[ShadowPair, _Shadow] = {}
        self._greatest: dict[ShadowPair, float] = {}

    def answered(self, version: ModelVersion, seconds: float, prediction: float | None) -> None:
        """A call of the bare name was answered."""
        meters = self._of_variant(version)
        meters.seconds.observe(seconds)
        meters.seconds_squared.inc(seconds * seconds)
        if prediction is not None:
            meters.prediction.observe(prediction)
            meters.prediction_squared.inc(prediction * prediction)

    def faulted(self, version: ModelVersion) -> None:
        """A call of the bare name failed by the version's fault."""
        self._of_variant(version).faults.inc()

    def shadowed(self, pair: ShadowPair, result: ShadowResult) -> None:
        """A copy came to an end."""
        labels = self._labels(pair)
        self._copies.labels(*labels, result.outcome).inc()
        if result.outcome not in (COMPARED, INCOMPARABLE):
            return
        meters = self._of_shadow(pair)
        meters.rows.inc(result.rows)
        meters.mismatched_rows.inc(result.mismatched_rows)
        meters.seconds.observe(result.seconds)
        meters.slower.observe(result.seconds - result.base_s)
        found = result.disagreement
        if found is not None and found.difference is not None:
            meters.difference.observe(found.difference)
            meters.relative.observe(found.relative or 0.0)
            largest = self._greatest[pair] = max(self._greatest[pair], found.largest or 0.0)
            meters.largest.set(largest)

    def dropped(self, pair: ShadowPair, cause: str) -> None:
        """A copy was not sent."""
        self._dropped.labels(*self._labels(pair), cause).inc()

    def forget(self, version: ModelVersion) -> None:
        """Drop the metrics of one version."""
        self._variants.pop(version, None)
        for metric in self._by_variant:
            metric.remove(*version)
        for pair in [pair for pair in self._greatest if (pair.name, pair.version) == version]:
            self._forget_pair(pair)

    def forget_model(self, name: str) -> None:
        """Drop the metrics of all versions of a model. Other names may have other labels from then on."""
        for metric in (*self._by_variant, *self._by_pair):
            metric.remove_by_labels({"model": name})
        for pair in [pair for pair in self._greatest if pair.name == name]:
            del self._greatest[pair]
        self._variants.clear()
        self._shadows.clear()

    def _labels(self, pair: ShadowPair) -> tuple[str, str, str]:
        labels = (self._bounded(pair.name), pair.version, pair.shadow)
        if pair not in self._greatest:
            if len(self._greatest) >= _MAX_PAIRS:
                self._forget_pair(next(iter(self._greatest)))
            self._greatest[pair] = 0.0
        return labels

    def _forget_pair(self, pair: ShadowPair) -> None:
        del self._greatest[pair]
        labels = dict(zip(_OF_SHADOW, (self._bounded(pair.name), pair.version, pair.shadow), strict=True))
        for metric in self._by_pair:
            metric.remove_by_labels(labels)
        self._shadows.clear()

    def _of_variant(self, version: ModelVersion) -> _Variant:
        meters = self._variants.get(version)
        if meters is None:
            labels = (self._bounded(version.name), version.version)
            meters = self._variants[version] = _Variant(
                self._seconds.labels(*labels),
                self._seconds_squared.labels(*labels),
                self._prediction.labels(*labels),
                self._prediction_squared.labels(*labels),
                self._faults.labels(*labels),
            )
        return meters

    def _of_shadow(self, pair: ShadowPair) -> _Shadow:
        meters = self._shadows.get(pair)
        if meters is None:
            labels = self._labels(pair)
            meters = self._shadows[pair] = _Shadow(
                self._rows.labels(*labels),
                self._mismatched_rows.labels(*labels),
                self._difference.labels(*labels),
                self._largest.labels(*labels),
                self._relative.labels(*labels),
                self._shadow_seconds.labels(*labels),
                self._slower.labels(*labels),
            )
        return meters
