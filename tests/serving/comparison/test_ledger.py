"""A gateway replica counts requests, by version and by traffic epoch, and counts add up over replicas."""

from __future__ import annotations

import pickle
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from app.serving.batching.batcher import AnsweredBatch
from app.serving.comparison import ledger as ledger_module
from app.serving.comparison.ledger import Ledger
from app.serving.comparison.prediction_diff import Disagreement
from app.serving.comparison.statistics import ShadowCounts, ShadowPair, ShadowResult, Statistics, VariantCounts
from app.serving.confidence import Moments, mean_difference
from app.serving.references import ModelVersion
from app.serving.releases.table import Release, ReleaseTable
from app.serving.releases.traffic import Traffic, Variant

V1, V2 = ModelVersion("prices", "1"), ModelVersion("prices", "2")
PAIR = ShadowPair("prices", "1", "2")


def traffic(weight: float = 90.0) -> Traffic:
    return Traffic((Variant("champion", "1", weight), Variant("challenger", "2", 100 - weight)), Variant("next", "2"))


def table(traffic: Traffic | None, *, created: int | None = 1) -> ReleaseTable:
    if created is None:
        return ReleaseTable()
    return ReleaseTable(releases={"prices": Release("prices", "1", {}, "default", created, traffic=traffic)})


class Replica:
    """A ledger, its clock and the current traffic."""

    def __init__(self) -> None:
        self.now = 100.0
        self.traffic: Traffic | None = traffic()
        self.ledger = Ledger(lambda _: self.traffic, lambda: self.now)
        self.table = table(self.traffic)

    def follow(self, traffic: Traffic | None, *, created: int | None = 1) -> None:
        """A new release table; without the model where `created` is None."""
        before, self.table = self.table, table(traffic, created=created)
        self.traffic = traffic
        self.ledger.follow(before, self.table)


def test_answers_are_counted_by_version_with_their_spread() -> None:
    replica = Replica()
    for seconds, prediction in ((0.5, 10.0), (1.5, None)):
        replica.ledger.divided(V1, traffic(), seconds, prediction)
        replica.now += 1
    replica.ledger.divided_failed(V1, traffic(), "model_failed")
    replica.ledger.divided_failed(V1, traffic(), "invalid_input")
    replica.ledger.divided(V2, traffic(), 4.0, 1.0)
    assert replica.ledger.statistics(V1).variant == VariantCounts(100, 102, 1, Moments(2, 1.0, 0.5), Moments(1, 10.0))
    assert replica.ledger.statistics(V2).variant.seconds == Moments(1, 4.0)
    assert replica.ledger.statistics(ModelVersion("gold", "1")).variant == VariantCounts()


def test_shadow_requests_are_counted_by_pair_of_versions() -> None:
    ledger = Replica().ledger
    found = Disagreement(4, 1, 0.5, 2.0, 0.1)
    ledger.shadowed(PAIR, traffic(), ShadowResult("compared", 0.3, 0.1, 4, found))
    ledger.shadowed(PAIR, traffic(), ShadowResult("incomparable", 0.3, 0.4, 2))
    ledger.shadowed(PAIR, traffic(), ShadowResult("model_failed", 0.3, 0.1, 3))
    ledger.shadow_dropped(PAIR, traffic(), "rows")
    counted = ledger.statistics(V2).shadows["1"]
    assert counted.outcomes == {"compared": 1, "incomparable": 1, "model_failed": 1}
    assert (counted.rows, counted.mismatched_rows, counted.dropped) == (6, 3, {"rows": 1})
    assert (counted.differences, counted.largest) == (Moments(1, 0.5), 2.0)
    assert counted.slower.count == 2
    assert ledger.statistics(V1).shadows == {}


def test_an_epoch_begins_when_the_traffic_changes() -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.now, replica.traffic = 200.0, traffic(50)
    replica.ledger.divided(V1, traffic(50), 1.0, None)
    assert replica.ledger.statistics(V1).variant == VariantCounts(200, 200, 0, Moments(1, 1.0))


def test_equal_traffic_in_a_new_table_keeps_the_epoch() -> None:
    replica = Replica()
    before = traffic()
    replica.ledger.divided(V1, before, 0.5, None)
    replica.traffic = traffic()
    replica.ledger.divided(V1, before, 0.5, None)
    replica.ledger.divided(V1, replica.traffic, 0.5, None)
    assert replica.ledger.statistics(V1).variant.seconds.count == 3


def test_requests_of_an_earlier_traffic_are_not_in_the_epoch() -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.traffic = traffic(50)
    replica.ledger.divided(V1, traffic(50), 0.5, None)
    replica.ledger.divided(V1, traffic(), 9.0, None)
    replica.ledger.shadowed(PAIR, traffic(), ShadowResult("incomparable", 0.3, 0.1, 2))
    replica.ledger.shadow_dropped(PAIR, traffic(), "rows")
    replica.ledger.divided_failed(V1, traffic(), "model_failed")
    assert replica.ledger.statistics(V1).variant == VariantCounts(100, 100, 0, Moments(1, 0.5))
    assert replica.ledger.statistics(V2).shadows == {}


def test_an_epoch_ends_on_replicas_without_requests_too() -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.follow(traffic(50))
    assert replica.ledger.statistics(V1).variant == VariantCounts()


def test_the_same_traffic_at_another_time_is_a_new_epoch() -> None:
    replica = Replica()
    for between in (None, traffic(50)):
        replica.ledger.divided(V1, traffic(), 0.5, None)
        replica.follow(between)
        replica.now += 100
        replica.follow(traffic())
        replica.ledger.divided(V1, traffic(), 0.5, None)
        assert replica.ledger.statistics(V1).variant == VariantCounts(replica.now, replica.now, 0, Moments(1, 0.5))


@pytest.mark.parametrize("created", [None, 2])
def test_a_deleted_or_recreated_model_leaves_no_counts(created: int | None) -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.ledger.shadow_dropped(PAIR, traffic(), "rows")
    replica.follow(traffic(), created=created)
    assert replica.ledger.statistics(V1).variant == VariantCounts()
    assert replica.ledger.statistics(V2).shadows == {}


def test_an_epoch_outlives_tables_that_keep_the_traffic() -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.follow(traffic())
    assert replica.ledger.statistics(V1).variant.seconds.count == 1
    replica.follow(None)
    assert replica.ledger.statistics(V1).variant.seconds.count == 1, "and stays when the traffic ends"


def test_an_epoch_stays_when_the_traffic_ends() -> None:
    replica = Replica()
    replica.ledger.divided(V1, traffic(), 0.5, None)
    replica.traffic = None
    replica.ledger.divided(V1, traffic(), 0.5, None)
    assert replica.ledger.statistics(V1).variant.seconds.count == 1


@pytest.mark.parametrize("value", [0.1, 1 / 3, 3.3, 78.29983968464778, 1000000.1])
def test_equal_predictions_show_no_difference(value: float) -> None:
    counted = []
    for version, calls in ((V1, (1000, 37)), (V2, (900, 50))):
        replicas = [Replica(), Replica()]
        for replica, count in zip(replicas, calls, strict=True):
            for _ in range(count):
                replica.ledger.divided(version, traffic(), 0.02, value)
        counted.append(sum([replica.ledger.statistics(version).variant for replica in replicas], VariantCounts()))
    difference = mean_difference(counted[0].predictions, counted[1].predictions)
    assert astuple(difference) == (0.0, 0.0, 0.0)


def test_a_small_spread_of_large_numbers_is_not_lost() -> None:
    numbers = np.random.default_rng(1).normal(1.7e9, 1.0, 2000)
    one, other = Replica(), Replica()
    for number in numbers[:500]:
        one.ledger.divided(V1, traffic(), 0.02, float(number))
    for number in numbers[500:]:
        other.ledger.divided(V1, traffic(), 0.02, float(number))
    both = (one.ledger.statistics(V1).variant + other.ledger.statistics(V1).variant).predictions
    assert both.variance == pytest.approx(numbers.var(ddof=1), rel=1e-6)
    assert both.mean == pytest.approx(numbers.mean(), rel=1e-12)


def test_statistics_of_replicas_add_up_and_survive_pickling() -> None:
    variant = VariantCounts(100, 110, 1, Moments(2, 1.0, 0.5), Moments(1, 10.0))
    one = ShadowCounts(100, 110, {"compared": 2}, {}, 6, 3, Moments(1, 0.5), 2.0, Moments(), Moments(1, 1.0))
    other = ShadowCounts(90, 105, {"compared": 1, "model_failed": 1}, {"rows": 1}, largest=5.0)
    replicas = [
        Statistics(requests=2, request_seconds_squared=0.5, faults=1, replicas=1, variant=variant, shadows={"1": one}),
        Statistics(
            requests=3,
            request_seconds_squared=1.0,
            failures=4,
            replicas=1,
            variant=VariantCounts(95, 99),
            shadows={"1": other, "3": one},
        ),
        Statistics(replicas=1),
    ]
    summed = sum(pickle.loads(pickle.dumps(replicas)), Statistics())
    assert (summed.requests, summed.failures, summed.faults, summed.replicas) == (5, 4, 1, 3)
    assert summed.request_seconds_squared == 1.5
    assert summed.variant == VariantCounts(95, 110, 1, Moments(2, 1.0, 0.5), Moments(1, 10.0))
    both = summed.shadows["1"]
    assert (both.since, both.until, both.outcomes) == (90, 110, {"compared": 3, "model_failed": 1})
    assert (both.dropped, both.rows, both.largest) == ({"rows": 1}, 6, 5.0)
    assert summed.shadows["3"] == one


def counting() -> Ledger:
    """A ledger of models without traffic."""
    return Ledger()


def releases(**created: int) -> ReleaseTable:
    """With these models, registered at these times."""
    return ReleaseTable(releases={name: Release(name, "1", {}, "default", at) for name, at in created.items()})


def test_statistics_are_the_counts_of_one_version() -> None:
    ledger = counting()
    ledger.predicted(V2, 3, 0.25)
    ledger.predicted(V2, 4, 0.5)
    ledger.called(V2, AnsweredBatch(2, 7, 0.0, 0.125, 2))
    ledger.predicted(V1, 100, 8.0)
    ledger.called(V1, AnsweredBatch(1, 100, 0.0, 8.0, 2))
    ledger.predicted(ModelVersion("gold", "2"), 100, 8.0)
    assert ledger.statistics(V2) == Statistics(
        requests=2,
        rows=7,
        batches=1,
        request_seconds=0.75,
        batch_seconds=0.125,
        request_seconds_squared=0.3125,
        replicas=1,
    )


def test_statistics_hold_failures_and_the_faults_among_them() -> None:
    ledger = counting()
    ledger.predicted(V2, 1, 0.25)
    for code in ("invalid_input", "invalid_input", "model_failed", "deadline_exceeded"):
        ledger.failed("prices", V2, code)
    ledger.failed("prices", V1, "model_failed")
    ledger.failed("prices", None, "model_not_found")
    ledger.failed("gold", ModelVersion("gold", "2"), "invalid_input")
    assert (ledger.statistics(V2).failures, ledger.statistics(V2).faults) == (4, 2)
    assert ledger.statistics(V1) == Statistics(failures=1, faults=1, replicas=1)


def test_statistics_of_one_version_read_no_other_version() -> None:
    class Unread(dict[ModelVersion, Any]):
        def _refuse(self, *args: object) -> Any:
            raise AssertionError("a walk over a thousand versions would hold up the event loop")

        __iter__ = items = values = keys = copy = _refuse

    ledger = counting()
    ledger.predicted(V2, 3, 0.25)
    ledger.versions = Unread(ledger.versions)
    assert ledger.statistics(V2).rows == 3


def test_statistics_do_not_change_after_they_are_returned() -> None:
    ledger = Replica().ledger
    ledger.divided(V1, traffic(), 0.5, 1.0)
    ledger.shadowed(PAIR, traffic(), ShadowResult("compared", 0.3, 0.1, 4, Disagreement(4, 1, 0.5, 2.0, 0.1)))
    found = [ledger.statistics(V1), ledger.statistics(V2)]
    before = pickle.dumps(found)
    ledger.divided(V1, traffic(), 0.5, 1.0)
    ledger.shadowed(PAIR, traffic(), ShadowResult("incomparable", 0.3, 0.1, 4))
    ledger.shadow_dropped(PAIR, traffic(), "rows")
    assert pickle.dumps(found) == before


def test_statistics_of_a_version_without_requests_are_zero() -> None:
    ledger = counting()
    assert ledger.statistics(V2) == Statistics(replicas=1)
    assert ledger.versions == {}


def test_statistics_of_a_deleted_model_are_zero() -> None:
    ledger = counting()
    ledger.predicted(V2, 1, 0.01)
    ledger.follow(releases(prices=1, gold=1), releases(gold=1))
    assert ledger.statistics(V2) == Statistics(replicas=1)


def test_a_recreated_model_starts_from_zero() -> None:
    ledger = counting()
    ledger.predicted(V2, 1, 0.01)
    ledger.follow(releases(prices=1), releases(prices=1, gold=1))
    assert ledger.statistics(V2).requests == 1
    ledger.follow(releases(prices=1), releases(prices=2))
    ledger.predicted(V2, 1, 0.01)
    assert ledger.statistics(V2).requests == 1


def test_asking_for_statistics_uses_up_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_NAMES", 1)
    ledger = counting()
    ledger.statistics(ModelVersion("gold", "1"))
    ledger.predicted(V2, 1, 0.25)
    assert ledger.statistics(V2).requests == 1


def test_models_beyond_the_bound_have_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_MAX_NAMES", 1)
    ledger = counting()
    for name in ("prices", "gold", "silver"):
        ledger.predicted(ModelVersion(name, "1"), 1, 0.25)
    assert ledger.statistics(V1).requests == 1
    for name in ("gold", "silver", "other"):
        assert ledger.statistics(ModelVersion(name, "1")) == Statistics(replicas=1)
