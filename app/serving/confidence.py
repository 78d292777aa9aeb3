"""Confidence intervals of rates and of means, from counts and sums alone. Two-sided, 95 %.

`app.serving.comparison.compare` compares versions with them, and `app.serving.releases.rollback_policy` tells a
fault from chance. All of
them take independent requests for granted; where a few callers send most of them, the truth is wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends between which the true value lies at the level of this module."""

    value: float
    low: float
    high: float

    @property
    def spans_zero(self) -> bool:
        """Whether a true value of zero is as possible as not."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Moments:
    """Count and mean of some numbers, and the sum of the squares of their deviations from it.

    Of sums alone, large numbers with a small spread would leave nothing but the errors of rounding, and these would
    pass for a difference. `deviations` is infinite for numbers that are too large to be squared.
    """

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Of all numbers together (Chan, Golub and LeVeque)."""
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        between = apart * apart * self.count * (other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.deviations + other.deviations + between)

    @property
    def variance(self) -> float:
        """Of the numbers, by one degree of freedom less; 0 where there are fewer than two."""
        if self.count < 2:
            return 0.0
        return self.deviations / (self.count - 1)


NO_NUMBERS = Moments()


def rate(hits: int, count: int) -> Interval:
    """A rate by Wilson's score interval, which holds for few and for no hits too."""
    if not count:
        return Interval(0.0, 0.0, 1.0)
    share, z2 = hits / count, _Z * _Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = _Z / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At its ends the interval touches the rate itself, up to rounding.
    return Interval(share, 0.0 if not hits else centre - reach, 1.0 if hits == count else centre + reach)


def rate_difference(hits: int, count: int, base_hits: int, base_count: int) -> Interval:
    """A rate less the base's, by Newcombe's hybrid of the two Wilson intervals."""
    mine, base = rate(hits, count), rate(base_hits, base_count)
    value = mine.value - base.value
    low = value - sqrt((mine.value - mine.low) ** 2 + (base.high - base.value) ** 2)
    high = value + sqrt((mine.high - mine.value) ** 2 + (base.value - base.low) ** 2)
    return Interval(value, low, high)


def mean(numbers: Moments) -> Interval:
    """A mean. The normal approximation: some dozens of numbers are needed."""
    reach = _Z * sqrt(numbers.variance / numbers.count) if numbers.count else 0.0
    return Interval(numbers.mean, numbers.mean - reach, numbers.mean + reach)


def mean_difference(numbers: Moments, base: Moments) -> Interval:
    """A mean less the base's, by Welch's error: the two need not vary alike. The normal approximation, as in `mean`."""
    value = numbers.mean - base.mean
    if not numbers.count or not base.count:
        return Interval(value, value, value)
    reach = _Z * sqrt(numbers.variance / numbers.count + base.variance / base.count)
    return Interval(value, value - reach, value + reach)
