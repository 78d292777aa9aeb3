"""When a new version does so much worse than the old one that the alias should go back."""

from __future__ import annotations

from collections import deque

import pytest

from app.serving.releases.rollback_policy import RollbackRule, Sample, keep, read_tags, reason

RULE = RollbackRule(error_rate=0.05, latency_ratio=2.0, window_s=300, min_requests=100)


def judged(new: list[Sample], old: list[Sample], rule: RollbackRule = RULE, now: float = 300.0) -> str | None:
    return reason(rule, new, old, old_version="1", now=now)


def steady(requests: int, errors: int, mean_s: float, *, until: float = 300.0, since: float = 0.0) -> list[Sample]:
    """Samples every thirty seconds of traffic that comes evenly."""
    steps = int((until - since) / 30)
    return [
        Sample(
            since + 30 * step,
            requests * step // steps,
            errors * step // steps,
            mean_s * (requests * step // steps - errors * step // steps),
        )
        for step in range(steps + 1)
    ]


GOOD = steady(1000, 4, 0.020)


def test_the_reason_names_both_error_rates() -> None:
    why = judged(steady(240, 29, 0.020, since=300, until=600), GOOD, now=600)
    assert why == "error rate 12.1 % over 240 requests in 300 s, version 1 had 0.4 %"


def test_the_reason_names_both_latencies() -> None:
    why = judged(steady(240, 0, 0.084, since=300, until=600), GOOD, now=600)
    assert why == "mean latency 84.0 ms over 240 requests in 300 s, version 1 had 20.0 ms"


@pytest.mark.parametrize(("slow", "goes_back"), [(1, False), (3, False), (60, True)])
def test_a_few_slow_requests_do_not_roll_back(slow: int, goes_back: bool) -> None:
    old = [Sample(0, 0, 0, 0.0), Sample(300, 1000, 0, 20.0, request_seconds_squared=0.5)]
    seconds = [0.020] * (200 - slow) + [10.0] * slow
    squares = sum(one * one for one in seconds)
    new = [Sample(300, 0, 0, 0.0), Sample(600, 200, 0, sum(seconds), request_seconds_squared=squares)]
    assert sum(seconds) / 200 > RULE.latency_ratio * 0.020  # type: ignore[operator]
    assert (judged(new, old, now=600) is not None) is goes_back


def test_a_version_that_does_as_well_stays() -> None:
    assert judged(steady(1000, 6, 0.022), GOOD) is None


def test_an_excess_of_errors_that_chance_explains_is_allowed() -> None:
    few = RollbackRule(error_rate=0.05, min_requests=10)
    assert judged(steady(10, 1, 0.020), steady(10, 0, 0.020), few) is None


def test_a_certain_but_small_excess_of_errors_is_allowed() -> None:
    assert judged(steady(100_000, 4000, 0.020), steady(100_000, 100, 0.020)) is None


def test_too_few_requests_decide_nothing() -> None:
    assert judged(steady(90, 90, 1.0), GOOD) is None


def test_without_traffic_of_the_old_version_nothing_is_compared() -> None:
    assert judged(steady(1000, 1000, 1.0), []) is None
    assert judged(steady(1000, 1000, 1.0), [Sample(0, 0, 0, 0), Sample(300, 0, 0, 0)]) is None


def test_traffic_before_the_window_does_not_count() -> None:
    bad_once = steady(200, 100, 0.02)
    good_since = [Sample(300 + 30 * n, 200 + 100 * n, 100, bad_once[-1].request_seconds + n) for n in range(1, 21)]
    assert judged(bad_once, GOOD, now=300) is not None
    assert judged([*bad_once, *good_since], GOOD, now=900) is None


def test_the_old_version_is_judged_by_its_latest_traffic() -> None:
    idle = [*GOOD, *(Sample(300 + 30 * n, 1000, 4, GOOD[-1].request_seconds) for n in range(1, 101))]
    assert judged(steady(240, 29, 0.020, since=3000, until=3300), idle, now=3300) is not None


def test_totals_stand_in_where_the_old_version_had_no_new_calls() -> None:
    since_long = [Sample(0, 1000, 4, 20.0), Sample(300, 1000, 4, 20.0)]
    assert judged(steady(240, 29, 0.020), since_long) is not None


def test_a_gateway_that_comes_or_goes_does_not_count_as_traffic() -> None:
    healthy = steady(300, 0, 0.020)
    with_history = [
        Sample(s.time, s.requests + 500 * (s.time > 100), s.errors + 400 * (s.time > 100), s.request_seconds, 2)
        if s.time > 100
        else s
        for s in healthy
    ]
    rule = RollbackRule(error_rate=0.05, min_requests=10)
    assert judged(with_history, GOOD, rule) is None
    gone = [Sample(s.time, s.requests // 2, 0, s.request_seconds / 2) if s.time > 200 else s for s in healthy]
    assert judged(gone, GOOD, rule) is None


def test_a_version_that_answers_nothing_has_no_latency() -> None:
    assert judged(steady(300, 300, 0.0), GOOD, RollbackRule(latency_ratio=2.0)) is None


@pytest.mark.parametrize("window_s", [0.1, 60, 300, 86_400, 1e300])
def test_some_hundred_samples_cover_any_window(window_s: float) -> None:
    samples: deque[Sample] = deque()
    for number in range(60_000):  # every five seconds, two requests a second
        keep(samples, Sample(5.0 * number, 10 * number, 5 * number, 0.0), window_s)
    assert 2 <= len(samples) <= 850
    assert samples[-1].time == 5.0 * 59_999
    assert samples[0].time <= max(samples[-1].time - 2 * window_s, 0.0) or len(samples) == 2
    rule = RollbackRule(error_rate=0.05, window_s=window_s, min_requests=1)
    why = judged(list(samples), GOOD, rule, now=samples[-1].time)
    assert why is not None
    assert why.startswith("error rate")


def test_only_the_limits_of_the_rule_count() -> None:
    assert judged(steady(300, 150, 0.020), GOOD, RollbackRule(latency_ratio=2.0)) is None
    assert judged(steady(300, 0, 1.0), GOOD, RollbackRule(error_rate=0.05)) is None


def test_the_tag_is_read() -> None:
    assert read_tags({}) == (None, ())
    text = '{"error_rate": 0.05, "latency_ratio": 2, "window_s": 60, "min_requests": 20}'
    assert read_tags({"serving.rollback": text}) == (RollbackRule(0.05, 2, 60, 20), ())
    assert read_tags({"serving.rollback": '{"error_rate": 0}'}) == (RollbackRule(error_rate=0), ())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("yes", "it is not JSON"),
        ("[1]", "it is no JSON object"),
        ('{"window_s": 60}', "it has neither 'error_rate' nor 'latency_ratio'"),
        ('{"errors": 0.1}', "'errors' is none of error_rate, latency_ratio, window_s, min_requests"),
        ('{"error_rate": 5}', "'error_rate' is 5, expected a share from 0 on, below 1"),
        ('{"error_rate": "5 %"}', "'error_rate' is \"5 %\", expected a share from 0 on, below 1"),
        ('{"error_rate": true}', "'error_rate' is true, expected a share from 0 on, below 1"),
        ('{"latency_ratio": 1}', "'latency_ratio' is 1, expected a number above 1"),
        ('{"latency_ratio": NaN}', "it is not JSON"),
        ('{"latency_ratio": 2, "window_s": 0}', "'window_s' is 0, expected a number of seconds above 0"),
        ('{"latency_ratio": 2, "min_requests": 1.5}', "'min_requests' is 1.5, expected a whole number from 1 on"),
    ],
)
def test_an_invalid_rule_is_reported_and_ignored(text: str, problem: str) -> None:
    assert read_tags({"serving.rollback": text}) == (None, (f"tag serving.rollback is ignored: {problem}",))
