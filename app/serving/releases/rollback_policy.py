"""Rollback policy: when a new version does so much worse than its predecessor that the alias should go back.

The tag ``serving.rollback`` of a registered model holds the rule as a JSON object; without it nothing is rolled back.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add, sub
from typing import Any, NamedTuple

import orjson

from app.serving.confidence import Moments, mean_difference, rate_difference

ROLLBACK_TAG = "serving.rollback"
_STEPS_PER_WINDOW = 200
_WINDOWS_KEPT = 3
"""One since the switch, one before it, and one to spare."""


@dataclass(frozen=True, slots=True)
class RollbackRule:
    """Rule for a rollback, over the last `window_s` seconds once they hold `min_requests`.

    `error_rate`: the new version's share of faults exceeds the old one's by more than this. `latency_ratio`: its mean
    request takes more than this many times the old one's. Either must be more than chance explains.
    """

    error_rate: float | None = None
    latency_ratio: float | None = None
    window_s: float = 300.0
    min_requests: int = 100


class Sample(NamedTuple):
    """Counters of a version at one time (monotonic seconds), summed over the gateway replicas that answered.

    `errors` are those that count against a version (`app.serving.comparison.error_attribution`); `requests` includes
    them. `request_seconds` and the sum of their squares are of answered requests. The difference of two samples is a
    sample too, whose `time` is the seconds between them; where `replicas` differ they cannot be compared.
    """

    time: float
    requests: int
    errors: int
    request_seconds: float
    replicas: int = 1
    request_seconds_squared: float = 0.0

    @property
    def answered(self) -> int:
        return self.requests - self.errors

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests

    @property
    def latencies(self) -> Moments:
        """Latencies of answered requests, in seconds."""
        mean = self.request_seconds / self.answered
        return Moments(self.answered, mean, max(self.request_seconds_squared - self.answered * mean * mean, 0.0))


_NOTHING = Sample(0.0, 0, 0, 0.0, 0)


def read_tags(tags: Mapping[str, str]) -> tuple[RollbackRule | None, tuple[str, ...]]:
    """Return the rule of a model's tags, and a sentence where it is ignored because it cannot be followed."""
    text = tags.get(ROLLBACK_TAG)
    if text is None:
        return None, ()
    try:
        given = orjson.loads(text)
    except ValueError:
        problem: str | None = "it is not JSON"
    else:
        problem = _problem(given)
    if problem is not None:
        return None, (f"tag {ROLLBACK_TAG} is ignored: {problem}",)
    return RollbackRule(**given), ()


def keep(samples: deque[Sample], sample: Sample, window_s: float) -> None:
    """Add the latest sample of a version, and drop those that a rule with this window no longer needs.

    At most some hundreds are kept, however long the window: beyond that, a sample that is hardly younger than the one
    before it is replaced.
    """
    if len(samples) > _STEPS_PER_WINDOW and sample.time - samples[-2].time < window_s / _STEPS_PER_WINDOW:
        samples[-1] = sample
    else:
        samples.append(sample)
    while len(samples) > 2 and samples[0].time < sample.time - _WINDOWS_KEPT * window_s:
        samples.popleft()


def reason(
    rule: RollbackRule, new: Sequence[Sample], old: Sequence[Sample], *, old_version: str, now: float
) -> str | None:
    """Return why to roll back, a sentence without a full stop, or None.

    The old version is judged by its latest traffic, whenever that was, since a promote leaves it none. Without any
    traffic there is nothing to compare with.

    Args:
        new: samples of the new version since the switch, oldest first.
        old: samples of the old version, from before the switch on.
        old_version: its number, for the sentence.
    """
    mine = _within(new, now - rule.window_s)
    base = _latest(old, rule)
    if mine.requests < rule.min_requests or not base.requests:
        return None
    over = f"over {mine.requests} requests in {mine.time:.0f} s, version {old_version} had"
    if rule.error_rate is not None:
        difference = rate_difference(mine.errors, mine.requests, base.errors, base.requests)
        if difference.value > rule.error_rate and difference.low > 0:
            return f"error rate {mine.error_rate * 100:.1f} % {over} {base.error_rate * 100:.1f} %"
    if rule.latency_ratio is not None and mine.answered and base.answered:
        is_enough = min(mine.answered, base.answered) >= rule.min_requests
        new_s, old_s = mine.latencies, base.latencies
        # A few slow requests alone must not decide.
        if is_enough and new_s.mean > rule.latency_ratio * old_s.mean and mean_difference(new_s, old_s).low > 0:
            return f"mean latency {new_s.mean * 1000:.1f} ms {over} {old_s.mean * 1000:.1f} ms"
    return None


def _within(samples: Sequence[Sample], since: float) -> Sample:
    """Return what was counted from a time on."""
    counted = _NOTHING
    for before, after in pairwise(samples):
        if after.time > since:
            counted = _plus(counted, before, after)
    return counted


def _latest(samples: Sequence[Sample], rule: RollbackRule) -> Sample:
    """Return the latest traffic that fills a window and has enough requests; otherwise all that was ever counted."""
    counted = _NOTHING
    for before, after in reversed(list(pairwise(samples))):
        if after.requests > before.requests or counted.requests:  # without the silence since then
            counted = _plus(counted, before, after)
        if counted.time >= rule.window_s and counted.requests >= rule.min_requests:
            return counted
    last = samples[-1] if samples else _NOTHING
    return counted if last.requests <= counted.requests else last


def _plus(counted: Sample, before: Sample, after: Sample) -> Sample:
    """Add the difference of two samples, unless a replica came, went or restarted between them."""
    step = Sample(*map(sub, after, before))
    if step.replicas or min(step) < 0 or step.answered < 0:
        return counted
    return Sample(*map(add, counted, step))


_EXPECTED: dict[str, tuple[Callable[[float], bool], str]] = {
    "error_rate": (lambda value: 0 <= value < 1, "a share from 0 on, below 1"),
    "latency_ratio": (lambda value: 1 < value < math.inf, "a number above 1"),
    "window_s": (lambda value: 0 < value < math.inf, "a number of seconds above 0"),
    "min_requests": (lambda value: value >= 1 and isinstance(value, int), "a whole number from 1 on"),
}


def _problem(given: Any) -> str | None:
    if not isinstance(given, dict):
        return "it is no JSON object"
    for key, value in given.items():
        if key not in _EXPECTED:
            return f"'{key[:40]}' is none of {', '.join(_EXPECTED)}"
        fits, expected = _EXPECTED[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
            is_nested = isinstance(value, dict | list)  # perhaps too deeply for `json`
            return f"'{key}' is {'no number' if is_nested else json.dumps(value)[:40]}, expected {expected}"
    if "error_rate" not in given and "latency_ratio" not in given:
        return "it has neither 'error_rate' nor 'latency_ratio'"
    return None
