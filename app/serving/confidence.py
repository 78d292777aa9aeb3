"""Two-sided 95 % confidence intervals of rates and means, computed from counts and sums.

`app.serving.comparison.compare` and `app.serving.releases.rollback_policy` use them. They assume independent requests:
where a few callers send most requests, the true interval is wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def spans_zero(self) -> bool:
        """Whether zero lies in the interval."""
        return self.low <= 0 <= self.high


@dataclass(slots=True)
class Moments:
    """Count and mean of some numbers, and the sum of the squares of their deviations from the mean.

    A sum of squares would lose a small spread of large numbers to rounding, and the rounding error would look like a
    difference. `deviations` is infinite for numbers that are too large to be squared.
    """

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def add(self, number: float) -> None:
        """Add one number (Welford's algorithm)."""
        self.count += 1
        apart = number - self.mean
        self.mean += apart / self.count
        self.deviations += apart * (number - self.mean)

    def __add__(self, other: Moments) -> Moments:
        """Combine two series of numbers (Chan, Golub and LeVeque)."""
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        between = apart * apart * self.count * (other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.deviations + other.deviations + between)

    @property
    def variance(self) -> float:
        """Sample variance; 0 for fewer than two numbers."""
        return self.deviations / (self.count - 1) if self.count > 1 else 0.0


def rate(hits: int, count: int) -> Interval:
    """Wilson's score interval of a rate; valid for few hits and for none."""
    if not count:
        return Interval(0.0, 0.0, 1.0)
    share, z2 = hits / count, _Z * _Z
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = _Z / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # With no hits, or with hits alone, the bound equals the rate; rounding could move it past the rate.
    return Interval(share, 0.0 if not hits else center - reach, 1.0 if hits == count else center + reach)


def rate_difference(hits: int, count: int, base_hits: int, base_count: int) -> Interval:
    """Newcombe's interval of a rate minus the base's, from the two Wilson intervals."""
    mine, base = rate(hits, count), rate(base_hits, base_count)
    value = mine.value - base.value
    low = value - sqrt((mine.value - mine.low) ** 2 + (base.high - base.value) ** 2)
    high = value + sqrt((mine.high - mine.value) ** 2 + (base.value - base.low) ** 2)
    return Interval(value, low, high)


def mean(numbers: Moments) -> Interval:
    """Interval of a mean by the normal approximation, which needs some dozens of numbers."""
    reach = _Z * sqrt(numbers.variance / numbers.count) if numbers.count else 0.0
    return Interval(numbers.mean, numbers.mean - reach, numbers.mean + reach)


def mean_difference(numbers: Moments, base: Moments) -> Interval:
    """Welch's interval of a mean minus the base's: the variances may differ. Approximation as in `mean`."""
    value = numbers.mean - base.mean
    if not numbers.count or not base.count:
        return Interval(value, value, value)
    reach = _Z * sqrt(numbers.variance / numbers.count + base.variance / base.count)
    return Interval(value, value - reach, value + reach)
