from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.metrics import requests as metrics
from app.metrics.requests import PrometheusRecorder
from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelVersion
from app.serving.releases.table import Release, ReleaseTable

PRICES = ModelVersion("prices", "2")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def recorder(registry: CollectorRegistry) -> PrometheusRecorder:
    return PrometheusRecorder(registry)


def table(**created: int) -> ReleaseTable:
    """With these models, registered then."""
    return ReleaseTable(releases={name: Release(name, "1", {}, "default", at) for name, at in created.items()})


def versions(registry: CollectorRegistry) -> set[str]:
    return {sample.labels["version"] for family in registry.collect() for sample in family.samples}


def error_labels(registry: CollectorRegistry) -> set[str]:
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {sample.labels["model"] for sample in samples if sample.name == "ml_serve_errors_total"}


def test_requests_rows_batches_and_errors_are_counted(
    registry: CollectorRegistry, recorder: PrometheusRecorder
) -> None:
    recorder.predicted(PRICES, 3, 0.01)
    recorder.predicted(PRICES, 4, 0.02)
    recorder.called(PRICES, AnsweredBatch(2, 7, 0.002, 0.005, 3))
    recorder.failed("prices", PRICES, "invalid_input")
    of_version = {"model": "prices", "version": "2"}
    assert {
        name: registry.get_sample_value(name, of_version)
        for name in (
            "ml_serve_requests_total",
            "ml_serve_rows_total",
            "ml_serve_request_seconds_count",
            "ml_serve_batch_seconds_sum",
            "ml_serve_batch_rows_sum",
            "ml_serve_batch_wait_seconds_sum",
            "ml_serve_batches_in_flight_bound",
            "ml_serve_batch_requests_sum",
        )
    } == {
        "ml_serve_requests_total": 2,
        "ml_serve_rows_total": 7,
        "ml_serve_request_seconds_count": 2,
        "ml_serve_batch_seconds_sum": 0.005,
        "ml_serve_batch_rows_sum": 7,
        "ml_serve_batch_wait_seconds_sum": 0.002,
        "ml_serve_batches_in_flight_bound": 3,
        "ml_serve_batch_requests_sum": 2,
    }
    of_code = {**of_version, "code": "invalid_input"}
    assert registry.get_sample_value("ml_serve_errors_total", of_code) == 1


@pytest.mark.parametrize(
    "code", ["model_not_found", "invalid_reference", "registry_unavailable", "overloaded", "deadline_exceeded"]
)
def test_a_name_that_may_not_exist_is_counted_as_unknown(
    registry: CollectorRegistry, recorder: PrometheusRecorder, code: str
) -> None:
    recorder.failed("pricse", None, code)
    labels = {"model": "unknown", "version": "unknown", "code": code}
    assert registry.get_sample_value("ml_serve_errors_total", labels) == 1
    recorder.predicted(PRICES, 1, 0.01)
    recorder.failed("prices", None, code)  # such as an alias that it lacks
    assert error_labels(registry) == {"unknown", "prices"}


def test_a_model_that_never_answered_is_counted_by_name(
    registry: CollectorRegistry, recorder: PrometheusRecorder
) -> None:
    recorder.failed("broken", ModelVersion("broken", "1"), "model_unavailable")
    assert error_labels(registry) == {"broken"}


def test_names_are_bounded_and_unknown_ones_use_up_nothing(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_NAMES", 2)
    for n in range(10):
        recorder.failed(f"nobody-{n}", None, "model_not_found")
        recorder.failed(f"nobody-{n}", None, "overloaded")  # before anybody has asked whether there is such a model
    for name in ("a", "b", "c", "d"):
        recorder.predicted(ModelVersion(name, "1"), 1, 0.01)
        recorder.failed(name, ModelVersion(name, "1"), "model_failed")
    assert error_labels(registry) == {"unknown", "a", "b", "other"}
    assert registry.get_sample_value("ml_serve_requests_total", {"model": "other", "version": "1"}) == 2


def test_statistics_are_what_was_counted_for_the_version(recorder: PrometheusRecorder) -> None:
    recorder.predicted(PRICES, 3, 0.25)
    recorder.predicted(PRICES, 4, 0.5)
    recorder.called(PRICES, AnsweredBatch(2, 7, 0.0, 0.125, 2))
    other = ModelVersion("prices", "1")
    recorder.predicted(other, 100, 8.0)
    recorder.called(other, AnsweredBatch(1, 100, 0.0, 8.0, 2))
    recorder.predicted(ModelVersion("gold", "2"), 100, 8.0)
    expected = Statistics(requests=2, rows=7, batches=1, request_seconds=0.75, batch_seconds=0.125, replicas=1)
    expected = replace(expected, request_seconds_squared=0.3125)
    assert recorder.statistics(PRICES) == expected


def test_statistics_hold_the_failures_of_the_version_and_those_that_are_its_fault(
    recorder: PrometheusRecorder,
) -> None:
    recorder.predicted(PRICES, 1, 0.25)
    for code in ("invalid_input", "invalid_input", "model_failed", "deadline_exceeded"):
        recorder.failed("prices", PRICES, code)
    recorder.failed("prices", ModelVersion("prices", "1"), "model_failed")
    recorder.failed("prices", None, "model_not_found")
    recorder.failed("gold", ModelVersion("gold", "2"), "invalid_input")
    assert (recorder.statistics(PRICES).failures, recorder.statistics(PRICES).faults) == (4, 2)
    assert recorder.statistics(ModelVersion("prices", "1")) == Statistics(failures=1, faults=1, replicas=1)


def test_statistics_of_one_version_are_read_without_all_the_others(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.predicted(PRICES, 3, 0.25)
    recorder.failed("prices", PRICES, "model_failed")

    def collect() -> Any:
        raise AssertionError("this takes the event loop a third of a second where there are a thousand versions")

    monkeypatch.setattr(registry, "collect", collect)
    monkeypatch.setattr(recorder._errors, "collect", collect)
    assert recorder.statistics(PRICES) == Statistics(
        requests=1, rows=3, failures=1, faults=1, request_seconds=0.25, request_seconds_squared=0.0625, replicas=1
    )


def test_versions_that_have_metrics_are_bounded_and_the_oldest_starts_anew(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_VERSIONS", 3)
    for number in range(1, 6):
        version = ModelVersion("prices", str(number))
        recorder.predicted(version, 1, 0.01)
        recorder.failed("prices", version, "model_failed")
        recorder.called(version, AnsweredBatch(1, 1, 0.0, 0.01, 1))
    assert versions(registry) == {"3", "4", "5"}
    recorder.predicted(ModelVersion("prices", "1"), 1, 0.01)
    assert recorder.statistics(ModelVersion("prices", "1")).requests == 1
    assert versions(registry) == {"1", "4", "5"}


def test_nothing_stays_of_a_model_that_is_deleted_and_its_name_is_free(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_NAMES", 1)
    gold = ModelVersion("gold", "1")
    for version in (PRICES, gold):
        recorder.predicted(version, 1, 0.01)
    recorder.failed("prices", None, "model_not_found")
    assert recorder.statistics(gold) == Statistics(replicas=1)
    recorder.follow(table(prices=1, gold=1), table(gold=1))
    recorder.predicted(gold, 1, 0.01)
    assert recorder.statistics(PRICES) == Statistics(replicas=1)
    assert recorder.statistics(gold).requests == 1
    assert registry.get_sample_value("ml_serve_requests_total", {"model": "prices", "version": "2"}) is None
    assert error_labels(registry) == set()


def test_a_model_that_is_registered_anew_starts_anew(recorder: PrometheusRecorder) -> None:
    recorder.predicted(PRICES, 1, 0.01)
    recorder.follow(table(prices=1), table(prices=1, gold=1))
    assert recorder.statistics(PRICES).requests == 1
    recorder.follow(table(prices=1), table(prices=2))
    recorder.predicted(PRICES, 1, 0.01)
    assert recorder.statistics(PRICES).requests == 1


def test_statistics_of_what_was_never_asked_for_are_zero(
    registry: CollectorRegistry, recorder: PrometheusRecorder
) -> None:
    before = {family.name: len(family.samples) for family in registry.collect()}
    assert recorder.statistics(PRICES) == Statistics(replicas=1)
    assert {family.name: len(family.samples) for family in registry.collect()} == before


def test_asking_for_statistics_uses_up_no_name(
    registry: CollectorRegistry, recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_NAMES", 1)
    recorder.statistics(ModelVersion("gold", "1"))
    recorder.predicted(PRICES, 1, 0.25)
    assert recorder.statistics(PRICES).requests == 1
    assert registry.get_sample_value("ml_serve_requests_total", {"model": "prices", "version": "2"}) == 1


def test_statistics_of_models_beyond_the_bound_are_not_those_of_others(
    recorder: PrometheusRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_NAMES", 1)
    recorder.predicted(PRICES, 1, 0.25)
    recorder.predicted(ModelVersion("gold", "1"), 1, 0.25)  # counted as "other"
    assert recorder.statistics(ModelVersion("silver", "1")) == Statistics(replicas=1)
