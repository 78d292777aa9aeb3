"""What is counted of models with traffic, and that it adds up over gateway replicas."""

from __future__ import annotations

import pickle
from dataclasses import astuple

import numpy as np
import pytest

from app.serving.comparison.counters import ShadowCounts, ShadowPair, ShadowResult, TrafficTally, VariantCounts
from app.serving.comparison.prediction_diff import Disagreement
from app.serving.comparison.statistics import Statistics
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
    """A tally, its clock and the traffic in force."""

    def __init__(self) -> None:
        self.now = 100.0
        self.traffic: Traffic | None = traffic()
        self.tally = TrafficTally(lambda _: self.traffic, lambda: self.now)
        self.table = table(self.traffic)

    def follow(self, traffic: Traffic | None, *, created: int | None = 1) -> None:
        """A new release table; without the model where `created` is None."""
        before, self.table = self.table, table(traffic, created=created)
        self.traffic = traffic
        self.tally.follow(before, self.table)


def test_answers_are_counted_by_version_with_their_spread() -> None:
    replica = Replica()
    for seconds, prediction in ((0.5, 10.0), (1.5, None)):
        replica.tally.answered(V1, traffic(), seconds, prediction)
        replica.now += 1
    replica.tally.failed(V1, traffic(), "model_failed")
    replica.tally.failed(V1, traffic(), "invalid_input")
    replica.tally.answered(V2, traffic(), 4.0, 1.0)
    assert replica.tally.variant(V1) == VariantCounts(100, 102, 1, Moments(2, 1.0, 0.5), Moments(1, 10.0))
    assert replica.tally.variant(V2).seconds == Moments(1, 4.0)
    assert replica.tally.variant(ModelVersion("gold", "1")) == VariantCounts()


def test_copies_are_counted_by_the_two_versions() -> None:
    tally = Replica().tally
    found = Disagreement(4, 1, 0.5, 2.0, 0.1)
    tally.shadowed(PAIR, traffic(), ShadowResult("compared", 0.3, 0.1, 4, found))
    tally.shadowed(PAIR, traffic(), ShadowResult("incomparable", 0.3, 0.4, 2))
    tally.shadowed(PAIR, traffic(), ShadowResult("model_failed", 0.3, 0.1, 3))
    tally.dropped(PAIR, traffic(), "rows")
    counted = tally.shadows(V2)["1"]
    assert counted.outcomes == {"compared": 1, "incomparable": 1, "model_failed": 1}
    assert (counted.rows, counted.mismatched_rows, counted.dropped) == (6, 3, {"rows": 1})
    assert (counted.differences, counted.largest) == (Moments(1, 0.5), 2.0)
    assert counted.slower.count == 2
    assert tally.shadows(V1) == {}


def test_counting_begins_anew_when_the_traffic_changes() -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.now, replica.traffic = 200.0, traffic(50)
    replica.tally.answered(V1, traffic(50), 1.0, None)
    assert replica.tally.variant(V1) == VariantCounts(200, 200, 0, Moments(1, 1.0))


def test_a_new_table_with_the_same_traffic_changes_nothing() -> None:
    replica = Replica()
    before = traffic()
    replica.tally.answered(V1, before, 0.5, None)
    replica.traffic = traffic()
    replica.tally.answered(V1, before, 0.5, None)
    replica.tally.answered(V1, replica.traffic, 0.5, None)
    assert replica.tally.variant(V1).seconds.count == 3


def test_calls_that_began_under_another_traffic_are_not_counted() -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.traffic = traffic(50)
    replica.tally.answered(V1, traffic(50), 0.5, None)
    replica.tally.answered(V1, traffic(), 9.0, None)
    replica.tally.shadowed(PAIR, traffic(), ShadowResult("incomparable", 0.3, 0.1, 2))
    replica.tally.dropped(PAIR, traffic(), "rows")
    replica.tally.failed(V1, traffic(), "model_failed")
    assert replica.tally.variant(V1) == VariantCounts(100, 100, 0, Moments(1, 0.5))
    assert replica.tally.shadows(V2) == {}


def test_a_replica_that_gets_no_calls_does_not_keep_what_it_counted_under_another_traffic() -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.follow(traffic(50))
    assert replica.tally.variant(V1) == VariantCounts()


def test_the_same_traffic_at_another_time_begins_anew() -> None:
    replica = Replica()
    for between in (None, traffic(50)):
        replica.tally.answered(V1, traffic(), 0.5, None)
        replica.follow(between)
        replica.now += 100
        replica.follow(traffic())
        replica.tally.answered(V1, traffic(), 0.5, None)
        assert replica.tally.variant(V1) == VariantCounts(replica.now, replica.now, 0, Moments(1, 0.5))


@pytest.mark.parametrize("created", [None, 2])
def test_a_model_that_is_deleted_or_registered_anew_leaves_no_counts(created: int | None) -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.tally.dropped(PAIR, traffic(), "rows")
    replica.follow(traffic(), created=created)
    assert replica.tally.variant(V1) == VariantCounts()
    assert replica.tally.shadows(V2) == {}


def test_another_table_changes_nothing_for_a_model_whose_traffic_is_the_same() -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.follow(traffic())
    assert replica.tally.variant(V1).seconds.count == 1
    replica.follow(None)
    assert replica.tally.variant(V1).seconds.count == 1, "and stays when the traffic ends"


def test_what_was_counted_stays_when_the_traffic_ends() -> None:
    replica = Replica()
    replica.tally.answered(V1, traffic(), 0.5, None)
    replica.traffic = None
    replica.tally.answered(V1, traffic(), 0.5, None)
    assert replica.tally.variant(V1).seconds.count == 1


@pytest.mark.parametrize("value", [0.1, 1 / 3, 3.3, 78.29983968464778, 1000000.1])
def test_the_same_prediction_for_every_caller_is_no_difference_between_versions(value: float) -> None:
    counted = []
    for version, calls in ((V1, (1000, 37)), (V2, (900, 50))):
        replicas = [Replica(), Replica()]
        for replica, count in zip(replicas, calls, strict=True):
            for _ in range(count):
                replica.tally.answered(version, traffic(), 0.02, value)
        counted.append(sum([replica.tally.variant(version) for replica in replicas], VariantCounts()))
    difference = mean_difference(counted[0].predictions, counted[1].predictions)
    assert astuple(difference) == (0.0, 0.0, 0.0)


def test_a_small_spread_of_large_numbers_is_not_lost() -> None:
    numbers = np.random.default_rng(1).normal(1.7e9, 1.0, 2000)
    one, other = Replica(), Replica()
    for number in numbers[:500]:
        one.tally.answered(V1, traffic(), 0.02, float(number))
    for number in numbers[500:]:
        other.tally.answered(V1, traffic(), 0.02, float(number))
    both = (one.tally.variant(V1) + other.tally.variant(V1)).predictions
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
