"""Metrics of models with traffic, and that other models have none of them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from app.metrics import requests as metrics
from app.metrics import traffic as traffic_metrics
from app.metrics.requests import PrometheusRecorder
from app.serving.comparison.counters import ShadowPair, ShadowResult
from app.serving.comparison.prediction_diff import Disagreement
from app.serving.confidence import Moments
from app.serving.references import ModelVersion
from app.serving.releases.table import Release, ReleaseTable
from app.serving.releases.traffic import Traffic, Variant

V1, V2 = ModelVersion("prices", "1"), ModelVersion("prices", "2")
TRAFFIC = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)), Variant("next", "2"))
PAIR = ShadowPair("prices", "1", "2")
SHADOW = {"model": "prices", "version": "1", "shadow_version": "2"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def recorder(registry: CollectorRegistry) -> PrometheusRecorder:
    return PrometheusRecorder(registry, traffic={"prices": TRAFFIC}.get)


def samples(registry: CollectorRegistry, prefix: str) -> dict[str, float]:
    """Values by name and labels other than model and version."""
    return {
        " ".join([one.name.removeprefix(prefix), *(v for k, v in one.labels.items() if k not in SHADOW)]): one.value
        for family in registry.collect()
        for one in family.samples
        if one.name.startswith(prefix) and not one.name.endswith(("_created", "_bucket"))
    }


def test_variants_have_counts_sums_and_sums_of_squares(
    registry: CollectorRegistry, recorder: PrometheusRecorder
) -> None:
    recorder.divided(V1, TRAFFIC, 0.5, -2.0)
    recorder.divided(V1, TRAFFIC, 1.5, None)
    recorder.divided_failed(V1, TRAFFIC, "model_failed")
    recorder.divided_failed(V1, TRAFFIC, "invalid_input")
    assert samples(registry, "ml_serve_variant_") == {
        "seconds_count": 2,
        "seconds_sum": 2.0,
        "seconds_squared_total": 2.5,
        "prediction_count": 1,
        "prediction_sum": -2.0,
        "prediction_squared_total": 4.0,
        "faults_total": 1,
    }
    variant = recorder.statistics(V1).variant
    assert (variant.faults, variant.seconds) == (1, Moments(2, 1.0, 0.5))
    assert recorder.statistics(V2).variant.seconds == Moments()


def test_copies_have_outcomes_differences_and_causes_of_drops(
    registry: CollectorRegistry, recorder: PrometheusRecorder
) -> None:
    found = Disagreement(4, 1, 0.5, 2.0, 0.25)
    recorder.shadowed(PAIR, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, found))
    recorder.shadowed(PAIR, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, Disagreement(4, 0, 0.25, 0.5, 0.125)))
    recorder.shadowed(PAIR, TRAFFIC, ShadowResult("incomparable", 0.5, 1.0, 2))
    recorder.shadowed(PAIR, TRAFFIC, ShadowResult("model_failed", 0.5, 1.0, 3))
    recorder.shadow_dropped(PAIR, TRAFFIC, "rows")
    assert samples(registry, "ml_serve_shadow_") == {
        "requests_total compared": 2,
        "requests_total incomparable": 1,
        "requests_total model_failed": 1,
        "dropped_total rows": 1,
        "rows_total": 10,
        "mismatched_rows_total": 3,
        "difference_count": 2,
        "difference_sum": 0.75,
        "difference_largest": 2.0,
        "relative_difference_count": 2,
        "relative_difference_sum": 0.375,
        "seconds_count": 3,
        "seconds_sum": 1.5,
        "slower_seconds_count": 3,
        "slower_seconds_sum": 0.0,
    }
    assert registry.get_sample_value("ml_serve_shadow_rows_total", SHADOW) == 10
    assert recorder.statistics(V2).shadows["1"].outcomes == {"compared": 2, "incomparable": 1, "model_failed": 1}
    assert recorder.statistics(V1).shadows == {}


def test_models_without_traffic_have_none_of_them(registry: CollectorRegistry, recorder: PrometheusRecorder) -> None:
    recorder.predicted(V1, 3, 0.01)
    recorder.failed("prices", V1, "model_failed")
    assert samples(registry, "ml_serve_variant_") == samples(registry, "ml_serve_shadow_") == {}


def test_names_are_bounded_here_too(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_NAMES", 1)
    for name in ("a", "b", "c"):
        recorder.divided(ModelVersion(name, "1"), TRAFFIC, 0.5, None)
        recorder.shadow_dropped(ShadowPair(name, "1", "2"), TRAFFIC, "rows")
    names = {sample.labels["model"] for family in registry.collect() for sample in family.samples}
    assert names == {"a", "other"}


def test_metrics_end_with_their_version_and_with_their_model(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_VERSIONS", 1)
    found = Disagreement(4, 1, 0.5, 2.0, 0.25)

    def answer(version: ModelVersion) -> None:
        recorder.predicted(version, 1, 0.01)
        recorder.divided(version, TRAFFIC, 0.5, 1.0)
        pair = PAIR._replace(version=version.version)
        recorder.shadowed(pair, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, found))
        recorder.shadow_dropped(pair, TRAFFIC, "rows")

    def versions() -> set[str]:
        return {
            sample.labels["version"]
            for family in registry.collect()
            for sample in family.samples
            if sample.name.startswith(("ml_serve_variant", "ml_serve_shadow"))
        }

    answer(V1)
    answer(ModelVersion("prices", "3"))
    assert versions() == {"3"}
    answer(V1)
    assert samples(registry, "ml_serve_shadow_")["difference_count"] == 1
    model = Release("prices", "1", {}, "default", 1, traffic=TRAFFIC)
    recorder.follow(ReleaseTable(releases={"prices": model}), ReleaseTable())
    assert versions() == set()


def test_pairs_that_have_metrics_are_bounded(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_metrics, "_MAX_PAIRS", 2)
    for shadow in ("2", "3", "4", "2"):
        pair = PAIR._replace(shadow=shadow)
        recorder.shadowed(
            pair, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, Disagreement(4, 1, 0.5, float(shadow), 0.25))
        )
        recorder.shadow_dropped(pair, TRAFFIC, "rows")
    found = {
        sample.labels["shadow_version"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "ml_serve_shadow_difference_largest"
    }
    assert found == {"4": 4.0, "2": 2.0}
    assert registry.get_sample_value("ml_serve_shadow_dropped_total", {**SHADOW, "cause": "rows"}) == 1
