"""Comparisons of two versions: estimates, verdicts, and how often they are right."""

from __future__ import annotations

from dataclasses import astuple
from datetime import UTC, datetime

import numpy as np
import pytest

from app.serving.comparison.compare import FEWEST, NOTHING_YET, Comparison, Difference, Estimate, compare
from app.serving.comparison.ledger import Ledger
from app.serving.comparison.statistics import ShadowCounts, Statistics, VariantCounts
from app.serving.confidence import Moments
from app.serving.references import ModelVersion
from app.serving.releases.traffic import Traffic, Variant

RUNS = 600
TRAFFIC = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))


def moments(numbers: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Moments:
    return Moments(len(numbers), float(numbers.mean()), float(((numbers - numbers.mean()) ** 2).sum()))


def even(count: int, mean: float, spread: float = 0.1) -> Moments:
    """Numbers of which half lie above the mean and half below."""
    return Moments(count, mean, count * spread * spread)


def divided(count: int, faults: int = 0, mean_s: float = 0.02, prediction: float = 5.0) -> Statistics:
    return Statistics(
        variant=VariantCounts(1000.0, 2000.0, faults, even(count, mean_s, mean_s / 2), even(count, prediction))
    )


def compared(base: Statistics, other: Statistics) -> Comparison:
    return compare("1", base, "2", other)


def verdict(difference: Difference | None) -> str:
    assert difference is not None
    return difference.verdict


def test_equal_versions_show_no_difference() -> None:
    found = compared(divided(1000, faults=5), divided(1000, faults=5))
    assert (found.counted, found.base.version, found.other.version) == ("divided", "1", "2")
    assert {verdict(one) for one in (found.error_rate, found.latency_s, found.prediction)} == {NOTHING_YET}
    assert found.base.requests == 1005
    assert (found.base.since, found.base.until) == tuple(datetime.fromtimestamp(unix, UTC) for unix in (1000, 2000))


@pytest.mark.parametrize(
    ("sign", "words"), [(1, ("more errors", "slower", "higher")), (-1, ("fewer errors", "faster", "lower"))]
)
def test_a_difference_has_a_verdict_in_words(sign: int, words: tuple[str, str, str]) -> None:
    one, other = divided(2000, 10, 0.02, 5.0), divided(2000, 100, 0.03, 6.0)
    found = compared(one, other) if sign > 0 else compared(other, one)
    assert tuple(map(verdict, (found.error_rate, found.latency_s, found.prediction))) == words
    assert found.latency_s is not None
    assert found.latency_s.value == pytest.approx(sign * 0.01)
    assert found.latency_s.low < found.latency_s.value < found.latency_s.high


def test_few_requests_give_no_verdict_on_means() -> None:
    found = compared(divided(FEWEST - 1, mean_s=0.02), divided(10_000, mean_s=2.0))
    assert verdict(found.latency_s) == NOTHING_YET
    assert found.base.latency_s is not None
    assert found.base.latency_s.value == pytest.approx(0.02)
    assert found.base.latency_s.low is None
    assert verdict(compared(divided(FEWEST, mean_s=0.02), divided(10_000, mean_s=2.0)).latency_s) == "slower"


def test_numbers_too_large_to_be_squared_have_no_interval() -> None:
    replica = Ledger(lambda _: TRAFFIC)
    for number in range(60):
        replica.divided(ModelVersion("m", "1"), TRAFFIC, 0.02, 1e200 * (number % 2))
    huge = replica.statistics(ModelVersion("m", "1"))
    found = compared(divided(100), huge)
    assert found.other.prediction == Estimate(5e199, None, None)
    assert found.prediction is None
    assert verdict(found.error_rate) == NOTHING_YET


def test_numbers_whose_differences_overflow_have_no_mean() -> None:
    replica = Ledger(lambda _: TRAFFIC)
    for number in range(60):
        replica.divided(ModelVersion("m", "1"), TRAFFIC, 0.02, 1.5e308 * (-1) ** number)
    wild = replica.statistics(ModelVersion("m", "1"))
    found = compared(wild, divided(100))
    assert (found.base.prediction, found.prediction) == (None, None)
    assert verdict(found.latency_s) == NOTHING_YET


def test_few_requests_can_give_a_verdict_on_errors() -> None:
    assert verdict(compared(divided(2), divided(1, faults=1)).error_rate) == NOTHING_YET
    assert verdict(compared(divided(1000), divided(1, faults=9)).error_rate) == "more errors"


def test_versions_without_split_requests_use_all_requests() -> None:
    found = compared(divided(100), Statistics(requests=90, faults=10, failures=50, request_seconds=1.8))
    assert found.counted == "all"
    assert (found.base.requests, found.other.requests, found.other.faults) == (0, 100, 10)
    assert found.other.latency_s is not None
    assert astuple(found.other.latency_s) == (pytest.approx(0.02), None, None)
    assert (found.error_rate, found.latency_s, found.prediction) == (None,) * 3
    found = compared(Statistics(requests=1000, request_seconds=1.0), Statistics(requests=90, faults=10))
    assert verdict(found.error_rate) == "more errors"


def test_without_counts_there_are_no_differences() -> None:
    found = compared(Statistics(), Statistics())
    assert (found.error_rate, found.latency_s, found.prediction, found.shadow) == (None,) * 4
    assert (found.base.error_rate, found.base.latency_s) == (None, None)


def test_a_version_that_only_fails_has_no_latency() -> None:
    found = compared(divided(100), Statistics(variant=VariantCounts(1000.0, 2000.0, 50)))
    assert found.counted == "divided"
    assert verdict(found.error_rate) == "more errors"
    assert (found.latency_s, found.prediction, found.other.latency_s) == (None,) * 3


def test_only_shadow_requests_of_the_base_are_compared() -> None:
    copies = ShadowCounts(
        1000.0,
        2000.0,
        {"compared": 95, "incomparable": 5, "model_failed": 3, "invalid_input": 2, "overloaded": 9},
        {"rows": 7},
        rows=400,
        mismatched_rows=40,
        differences=even(95, 0.5),
        largest=3.0,
        relative=even(95, 0.1, 0.01),
        slower=even(100, 0.01, 0.005),
    )
    other = Statistics(shadows={"1": copies, "9": ShadowCounts()})
    shadow = compared(Statistics(), other).shadow
    assert shadow is not None
    assert (shadow.requests, shadow.rows, shadow.largest) == (100, 400, 3.0)
    assert shadow.errors == {"model_failed": 3, "invalid_input": 2, "overloaded": 9}
    assert shadow.dropped == {"rows": 7}
    assert shadow.mismatch_rate is not None
    # Wilson's interval of 40 in 400.
    assert astuple(shadow.mismatch_rate) == pytest.approx((0.1, 0.0743, 0.1333), abs=1e-4)
    assert shadow.difference is not None
    assert shadow.difference.value == pytest.approx(0.5)
    assert shadow.relative == pytest.approx(0.1)
    assert verdict(shadow.latency_s) == "slower"
    assert shadow.error_rate is not None
    assert shadow.error_rate.value == pytest.approx(5 / 105), (
        "input that the shadow rejects counts, because the base accepted it"
    )
    assert compare("1", other, "2", Statistics()).shadow is None


def test_shadow_requests_that_all_failed_have_no_differences() -> None:
    other = Statistics(shadows={"1": ShadowCounts(1000.0, 2000.0, {"model_failed": 3})})
    shadow = compared(Statistics(), other).shadow
    assert shadow is not None
    found = (shadow.mismatch_rate, shadow.difference, shadow.latency_s, shadow.largest, shadow.relative)
    assert found == (None,) * 5


def simulated(random: np.random.Generator, count: int, error_rate: float, scale: float, mean: float) -> Statistics:
    """Counts of simulated requests: errors, skewed latencies, predictions."""
    faults = int(random.binomial(count, error_rate))
    answered = count - faults
    seconds, predictions = random.lognormal(np.log(scale), 0.5, answered), random.normal(mean, 2.0, answered)
    return Statistics(variant=VariantCounts(0.0, 1.0, faults, moments(seconds), moments(predictions)))


def test_intervals_contain_the_truth_19_times_in_20() -> None:
    random = np.random.default_rng(7)
    truth = (0.03 - 0.02, (0.025 - 0.02) * np.exp(0.5**2 / 2), 5.2 - 5.0)
    held = np.zeros(3)
    for _ in range(RUNS):
        found = compared(simulated(random, 900, 0.02, 0.02, 5.0), simulated(random, 300, 0.03, 0.025, 5.2))
        for index, one in enumerate((found.error_rate, found.latency_s, found.prediction)):
            assert one is not None
            held[index] += one.low <= truth[index] <= one.high
    assert (held / RUNS).min() >= 0.93
    assert (held / RUNS).max() <= 0.975


def test_equal_versions_seem_different_one_time_in_20() -> None:
    random = np.random.default_rng(8)
    told = np.zeros(3)
    for _ in range(RUNS):
        found = compared(simulated(random, 900, 0.02, 0.02, 5.0), simulated(random, 300, 0.02, 0.02, 5.0))
        for index, one in enumerate((found.error_rate, found.latency_s, found.prediction)):
            told[index] += verdict(one) != NOTHING_YET
    assert (told / RUNS).max() <= 0.07
