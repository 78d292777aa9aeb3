"""Confidence intervals: published values, and how often they contain the truth."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from app.serving.confidence import Interval, Moments, mean, mean_difference, rate, rate_difference

RUNS = 2000


def moments(numbers: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Moments:
    return Moments(len(numbers), float(numbers.mean()), float(((numbers - numbers.mean()) ** 2).sum()))


def covered(found: list[Interval], truth: float) -> float:
    """The share of intervals that contain the true value."""
    return sum(one.low <= truth <= one.high for one in found) / len(found)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Wilson's score interval without continuity correction, from Newcombe 1998, Statistics in Medicine 17:857, table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_rates_have_published_intervals(hits: int, count: int, low: float, high: float) -> None:
    assert astuple(rate(hits, count)) == pytest.approx((hits / count, low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("mine", "base", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10.
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_differences_of_rates_have_published_intervals(
    mine: tuple[int, int], base: tuple[int, int], low: float, high: float
) -> None:
    found = rate_difference(*mine, *base)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_without_counts_intervals_are_as_wide_as_possible() -> None:
    assert rate(0, 0) == Interval(0.0, 0.0, 1.0)
    assert rate_difference(0, 0, 0, 0).spans_zero
    assert mean(Moments()) == Interval(0.0, 0.0, 0.0)
    assert mean_difference(Moments(), Moments(2, 1.0)) == Interval(-1.0, -1.0, -1.0)


def test_moments_add_up() -> None:
    numbers = np.random.default_rng(1).normal(3.0, 2.0, 100)
    both = moments(numbers[:30]) + moments(numbers[30:])
    one_by_one = Moments()
    for number in numbers:
        one_by_one.add(float(number))
    assert astuple(one_by_one) == pytest.approx(astuple(moments(numbers)))
    assert astuple(both) == pytest.approx(astuple(moments(numbers)))
    assert (both.mean, both.variance) == pytest.approx((numbers.mean(), numbers.var(ddof=1)))


def test_equal_numbers_never_have_a_negative_variance() -> None:
    equal = Moments()
    for _ in range(1000):
        equal.add(0.1)
        assert equal.variance >= 0
    assert equal.variance == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("share", "count"), [(0.01, 300), (0.2, 50), (0.5, 30)])
def test_rates_lie_in_their_interval_19_times_in_20(share: float, count: int) -> None:
    hits = np.random.default_rng(2).binomial(count, share, RUNS)
    assert 0.93 <= covered([rate(int(one), count) for one in hits], share) <= 0.98


@pytest.mark.parametrize(("share", "base"), [(0.05, 0.02), (0.02, 0.02), (0.3, 0.1)])
def test_rate_differences_lie_in_their_interval_19_times_in_20(share: float, base: float) -> None:
    random = np.random.default_rng(3)
    found = [
        rate_difference(int(mine), 200, int(other), 900)
        for mine, other in zip(random.binomial(200, share, RUNS), random.binomial(900, base, RUNS), strict=True)
    ]
    assert 0.93 <= covered(found, share - base) <= 0.98


def test_skewed_means_lie_in_their_interval_19_times_in_20() -> None:
    random = np.random.default_rng(4)
    # Two lognormals: their means are exp(mu + sigma^2 / 2).
    mine, base = np.exp(-3 + 0.6**2 / 2), np.exp(-3.2 + 0.3**2 / 2)
    drawn = [(moments(random.lognormal(-3, 0.6, 150)), moments(random.lognormal(-3.2, 0.3, 400))) for _ in range(RUNS)]
    assert 0.93 <= covered([mean_difference(new, old) for new, old in drawn], mine - base) <= 0.97
    assert 0.93 <= covered([mean(new) for new, _ in drawn], mine) <= 0.97
