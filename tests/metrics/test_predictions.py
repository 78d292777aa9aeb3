"""Prometheus reads the ledger: names, labels, types and buckets are a contract with dashboards and alerts."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client import metrics as client_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics.predictions import PredictionMetrics
from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison import ledger as ledger_module
from app.serving.comparison.ledger import Ledger
from app.serving.comparison.prediction_diff import Disagreement
from app.serving.comparison.statistics import ShadowPair, ShadowResult
from app.serving.references import ModelVersion
from app.serving.releases.table import Release, ReleaseTable
from app.serving.releases.traffic import Traffic, Variant

V1, V2 = ModelVersion("prices", "1"), ModelVersion("prices", "2")
TRAFFIC = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)), Variant("next", "2"))
PAIR = ShadowPair("prices", "1", "2")
VERSION = {"model", "version"}
SHADOW = VERSION | {"shadow_version"}
SHADOW_LABELS = {"model": "prices", "version": "1", "shadow_version": "2"}
FOUND = Disagreement(4, 1, 0.5, 2.0, 0.25)

SECONDS = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 +Inf"
ROWS = "1.0 2.0 4.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 4096.0 16384.0 +Inf"
RELATIVE = "0.0 1e-06 0.0001 0.001 0.01 0.02 0.05 0.1 0.2 0.5 1.0 2.0 +Inf"
FAMILIES = {
    "ml_serve_requests": ("counter", VERSION, ""),
    "ml_serve_rows": ("counter", VERSION, ""),
    "ml_serve_errors": ("counter", VERSION | {"code"}, ""),
    "ml_serve_request_seconds": ("histogram", VERSION, SECONDS),
    "ml_serve_batch_seconds": ("histogram", VERSION, SECONDS),
    "ml_serve_batch_rows": ("histogram", VERSION, ROWS),
    "ml_serve_batch_requests": ("histogram", VERSION, ROWS),
    "ml_serve_batch_wait_seconds": ("histogram", VERSION, SECONDS),
    "ml_serve_repeated_requests": ("counter", VERSION, ""),
    "ml_serve_batches_in_flight_bound": ("gauge", VERSION, ""),
    "ml_serve_streams": ("gauge", VERSION, ""),
    "ml_serve_stream_events": ("counter", VERSION, ""),
    "ml_serve_variant_seconds": ("summary", VERSION, ""),
    "ml_serve_variant_seconds_squared": ("counter", VERSION, ""),
    "ml_serve_variant_prediction": ("summary", VERSION, ""),
    "ml_serve_variant_prediction_squared": ("counter", VERSION, ""),
    "ml_serve_variant_faults": ("counter", VERSION, ""),
    "ml_serve_shadow_requests": ("counter", SHADOW | {"outcome"}, ""),
    "ml_serve_shadow_dropped": ("counter", SHADOW | {"cause"}, ""),
    "ml_serve_shadow_rows": ("counter", SHADOW, ""),
    "ml_serve_shadow_mismatched_rows": ("counter", SHADOW, ""),
    "ml_serve_shadow_difference": ("summary", SHADOW, ""),
    "ml_serve_shadow_difference_largest": ("gauge", SHADOW, ""),
    "ml_serve_shadow_relative_difference": ("histogram", SHADOW, RELATIVE),
    "ml_serve_shadow_seconds": ("histogram", SHADOW, SECONDS),
    "ml_serve_shadow_slower_seconds": ("summary", SHADOW, ""),
}
SUFFIXES = {
    "counter": {"_total", "_created"},
    "gauge": {""},
    "summary": {"_count", "_sum", "_created"},
    "histogram": {"_bucket", "_count", "_sum", "_created"},
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def ledger(registry: CollectorRegistry) -> Ledger:
    ledger = Ledger({"prices": TRAFFIC}.get)
    PredictionMetrics(ledger, registry)
    return ledger


def table(**created: int) -> ReleaseTable:
    """With these models, registered at these times."""
    return ReleaseTable(releases={name: Release(name, "1", {}, "default", at) for name, at in created.items()})


def samples(registry: CollectorRegistry, prefix: str) -> dict[str, float]:
    """Values by name and labels other than model and version."""
    return {
        " ".join([one.name.removeprefix(prefix), *(v for k, v in one.labels.items() if k not in SHADOW)]): one.value
        for family in registry.collect()
        for one in family.samples
        if one.name.startswith(prefix) and not one.name.endswith(("_created", "_bucket"))
    }


def labels(registry: CollectorRegistry, label: str, prefix: str = "ml_serve") -> set[str]:
    found = [one for family in registry.collect() for one in family.samples if one.name.startswith(prefix)]
    return {one.labels[label] for one in found}


def count_everything(ledger: Ledger) -> None:
    ledger.predicted(V1, 3, 0.01)
    ledger.called(V1, AnsweredBatch(2, 7, 0.002, 0.005, 3))
    ledger.failed("prices", V1, "invalid_input")
    ledger.divided(V1, TRAFFIC, 0.5, -2.0)
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, FOUND))
    ledger.shadow_dropped(PAIR, TRAFFIC, "rows")


def test_families_have_the_promised_labels_and_buckets(registry: CollectorRegistry, ledger: Ledger) -> None:
    count_everything(ledger)
    found = {}
    for family in registry.collect():
        assert {one.name.removeprefix(family.name) for one in family.samples} == SUFFIXES[family.type]
        assert family.documentation.endswith(".")
        names = {label for one in family.samples for label in one.labels} - {"le"}
        bounds = [one.labels["le"] for one in family.samples if "le" in one.labels]
        found[family.name] = (family.type, names, " ".join(bounds))
    assert found == FAMILIES


def test_the_text_format_can_be_parsed(registry: CollectorRegistry, ledger: Ledger) -> None:
    count_everything(ledger)
    parsed = {family.name for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert parsed >= FAMILIES.keys()


def test_a_metric_name_cannot_be_used_twice(registry: CollectorRegistry, ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="ml_serve_requests_total"):
        Counter("ml_serve_requests", "Another metric of that name.", registry=registry)


def test_created_samples_can_be_switched_off(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_everything(ledger)
    monkeypatch.setattr(client_metrics, "_use_created", False)  # as prometheus_client's own switch does
    names = {one.name for family in registry.collect() for one in family.samples}
    assert "ml_serve_requests_total" in names
    assert [name for name in names if name.endswith("_created")] == []


def test_requests_rows_and_batches_are_counted(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.predicted(V2, 3, 0.01)
    ledger.predicted(V2, 4, 0.02)
    ledger.called(V2, AnsweredBatch(2, 7, 0.002, 0.005, 3))
    ledger.failed("prices", V2, "invalid_input")
    ledger.repeated(V2, 4)
    for _ in range(3):
        ledger.stream_started(V2)
    ledger.stream_ended(V2, 5)
    assert samples(registry, "ml_serve_") == {
        "requests_total": 2,
        "rows_total": 7,
        "errors_total invalid_input": 1,
        "request_seconds_count": 2,
        "request_seconds_sum": 0.03,
        "batch_seconds_count": 1,
        "batch_seconds_sum": 0.005,
        "batch_rows_count": 1,
        "batch_rows_sum": 7,
        "batch_requests_count": 1,
        "batch_requests_sum": 2,
        "batch_wait_seconds_count": 1,
        "batch_wait_seconds_sum": 0.002,
        "repeated_requests_total": 4,
        "batches_in_flight_bound": 3,
        "streams": 2,
        "stream_events_total": 5,
    }


def test_buckets_count_numbers_up_to_their_bound(registry: CollectorRegistry, ledger: Ledger) -> None:
    for rows in (1, 2, 3, 4, 16384, 16385):
        ledger.called(V1, AnsweredBatch(1, rows, 0.0, 0.01, 1))
    found = {
        one.labels["le"]: one.value
        for family in registry.collect()
        for one in family.samples
        if one.name == "ml_serve_batch_rows_bucket"
    }
    assert [found[bound] for bound in ("1.0", "2.0", "4.0", "4096.0", "16384.0", "+Inf")] == [1, 2, 4, 4, 5, 6]


@pytest.mark.parametrize(
    "code", ["model_not_found", "invalid_reference", "registry_unavailable", "overloaded", "deadline_exceeded"]
)
def test_an_unconfirmed_name_is_counted_as_unknown(registry: CollectorRegistry, ledger: Ledger, code: str) -> None:
    ledger.failed("pricse", None, code)
    of_unknown = {"model": "unknown", "version": "unknown", "code": code}
    assert registry.get_sample_value("ml_serve_errors_total", of_unknown) == 1
    ledger.predicted(V2, 1, 0.01)
    ledger.failed("prices", None, code)  # such as an alias that it lacks
    assert labels(registry, "model", "ml_serve_errors_total") == {"unknown", "prices"}


def test_a_version_in_an_unconfirmed_reference_is_unknown(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.failed("pricse", ModelVersion("pricse", "1"), "model_not_found")
    assert samples(registry, "ml_serve_") == {"errors_total model_not_found": 1}
    assert labels(registry, "version") == {"unknown"}


def test_a_model_that_never_answered_is_counted_by_name(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.failed("broken", ModelVersion("broken", "1"), "model_unavailable")
    assert labels(registry, "model", "ml_serve_errors_total") == {"broken"}


def test_names_are_bounded_and_unknown_ones_use_no_label(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_NAMES", 2)
    for n in range(10):
        ledger.failed(f"nobody-{n}", None, "model_not_found")
        ledger.failed(f"nobody-{n}", None, "overloaded")  # before the registry was asked whether the model exists
    for name in ("a", "b", "c", "d"):
        ledger.predicted(ModelVersion(name, "1"), 1, 0.01)
        ledger.failed(name, ModelVersion(name, "1"), "model_failed")
        ledger.divided(ModelVersion(name, "1"), TRAFFIC, 0.5, None)
        ledger.shadow_dropped(ShadowPair(name, "1", "2"), TRAFFIC, "rows")
    assert labels(registry, "model") == {"unknown", "a", "b", "other"}
    assert labels(registry, "model", "ml_serve_shadow_dropped_total") == {"a", "b", "other"}
    assert registry.get_sample_value("ml_serve_requests_total", {"model": "other", "version": "1"}) == 2


def test_versions_are_bounded_and_the_oldest_gives_way(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_VERSIONS", 3)
    for number in range(1, 6):
        version = ModelVersion("prices", str(number))
        ledger.predicted(version, 1, 0.01)
        ledger.failed("prices", version, "model_failed")
        ledger.called(version, AnsweredBatch(1, 1, 0.0, 0.01, 1))
    assert labels(registry, "version") == {"3", "4", "5"}
    ledger.predicted(V1, 1, 0.01)
    assert ledger.statistics(V1).requests == 1
    assert labels(registry, "version") == {"1", "4", "5"}


def test_a_deleted_model_leaves_no_series_and_its_name_is_free(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_NAMES", 1)
    gold = ModelVersion("gold", "1")
    for version in (V2, gold):
        ledger.predicted(version, 1, 0.01)
    ledger.failed("prices", None, "model_not_found")
    ledger.follow(table(prices=1, gold=1), table(gold=1))
    ledger.predicted(gold, 1, 0.01)
    assert ledger.statistics(gold).requests == 1
    assert labels(registry, "model") == {"gold", "other"}
    assert labels(registry, "model", "ml_serve_errors") == set()


def test_statistics_create_no_series(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.statistics(V1)
    assert samples(registry, "ml_serve_") == {}


def test_variants_have_sums_and_sums_of_squares(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.divided(V1, TRAFFIC, 0.5, -2.0)
    ledger.divided(V1, TRAFFIC, 1.5, None)
    ledger.divided_failed(V1, TRAFFIC, "model_failed")
    ledger.divided_failed(V1, TRAFFIC, "invalid_input")
    assert samples(registry, "ml_serve_variant_") == {
        "seconds_count": 2,
        "seconds_sum": 2.0,
        "seconds_squared_total": 2.5,
        "prediction_count": 1,
        "prediction_sum": -2.0,
        "prediction_squared_total": 4.0,
        "faults_total": 1,
    }


def test_totals_count_requests_of_earlier_traffic_too(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.divided(V1, Traffic((Variant("champion", "1", 100.0),)), 0.5, None)
    assert samples(registry, "ml_serve_variant_")["seconds_count"] == 1
    assert ledger.statistics(V1).variant.seconds.count == 0


def test_shadow_requests_have_outcomes_and_differences(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, FOUND))
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, Disagreement(4, 0, 0.25, 0.5, 0.125)))
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("incomparable", 0.5, 1.0, 2))
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("model_failed", 0.5, 1.0, 3))
    ledger.shadow_dropped(PAIR, TRAFFIC, "rows")
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
    assert registry.get_sample_value("ml_serve_shadow_rows_total", SHADOW_LABELS) == 10


def test_a_shadow_without_answers_has_outcomes_alone(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.shadowed(PAIR, TRAFFIC, ShadowResult("model_failed", 0.5, 1.0, 3))
    assert samples(registry, "ml_serve_shadow_") == {"requests_total model_failed": 1}


def test_models_without_traffic_have_no_traffic_series(registry: CollectorRegistry, ledger: Ledger) -> None:
    ledger.predicted(V1, 3, 0.01)
    ledger.failed("prices", V1, "model_failed")
    assert samples(registry, "ml_serve_variant_") == samples(registry, "ml_serve_shadow_") == {}


def test_traffic_series_end_with_version_and_model(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_VERSIONS", 1)

    def answer(version: ModelVersion) -> None:
        ledger.predicted(version, 1, 0.01)
        ledger.divided(version, TRAFFIC, 0.5, 1.0)
        pair = PAIR._replace(version=version.version)
        ledger.shadowed(pair, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, FOUND))
        ledger.shadow_dropped(pair, TRAFFIC, "rows")

    def versions() -> set[str]:
        return labels(registry, "version", "ml_serve_variant") | labels(registry, "version", "ml_serve_shadow")

    answer(V1)
    answer(ModelVersion("prices", "3"))
    assert versions() == {"3"}
    answer(V1)
    assert versions() == {"1"}
    assert samples(registry, "ml_serve_shadow_")["difference_count"] == 1
    ledger.follow(table(prices=1), ReleaseTable())
    assert versions() == set()


def test_pairs_are_bounded_and_the_oldest_gives_way(
    registry: CollectorRegistry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_PAIRS", 2)
    for shadow in ("2", "3", "4", "2"):
        pair = PAIR._replace(shadow=shadow)
        found = Disagreement(4, 1, 0.5, float(shadow), 0.25)
        ledger.shadowed(pair, TRAFFIC, ShadowResult("compared", 0.5, 0.25, 4, found))
        ledger.shadow_dropped(pair, TRAFFIC, "rows")
    largest = {
        one.labels["shadow_version"]: one.value
        for family in registry.collect()
        for one in family.samples
        if one.name == "ml_serve_shadow_difference_largest"
    }
    assert largest == {"4": 4.0, "2": 2.0}
    assert registry.get_sample_value("ml_serve_shadow_dropped_total", {**SHADOW_LABELS, "cause": "rows"}) == 1


def test_a_scrape_in_another_thread_sees_whole_histograms(registry: CollectorRegistry, ledger: Ledger) -> None:
    faults: list[str] = []
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            try:
                found = {one.name: one for family in registry.collect() for one in family.samples if one.labels}
            except RuntimeError as error:  # a dict that changed while it was read
                faults.append(str(error))
                return
            if found:
                name = "ml_serve_batch_rows"
                assert found[f"{name}_bucket"].labels["le"] == "+Inf"
                if found[f"{name}_bucket"].value != found[f"{name}_count"].value:
                    faults.append(name)

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(300):
        version = ModelVersion(f"m{number}", "1")
        ledger.predicted(version, 1, 0.01 * (number % 9))
        ledger.called(version, AnsweredBatch(1, number, 0.0, 0.01, 1))
        ledger.failed(version.name, version, f"code_{number}")
    done.set()
    thread.join()
    assert faults == []
