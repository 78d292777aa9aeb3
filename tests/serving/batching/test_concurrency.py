"""The learned bound on batches in flight, in a simulated pool."""

from __future__ import annotations

import pytest

from app.serving.batching.concurrency import InFlightBound
from tests.serving.batching.simulated_pool import Bound, Fixed, Flow, Pool, run

MOST = 16
WORKLOADS = {
    # The start of a batch dominates: one batch too many halves the rows of each.
    "starts": {"base_s": 0.010, "row_s": 0.00005, "callers": 64, "max_rows": 1024},
    # Rows dominate: one batch too few leaves a slot idle.
    "rows": {"base_s": 0.002, "row_s": 0.0005, "callers": 64, "max_rows": 1024},
    # More requests wait than batches can hold.
    "full": {"base_s": 0.005, "row_s": 0.0002, "callers": 400, "max_rows": 20},
}


def rows_per_s(
    bound: Bound, slots: int, workload: str, until_s: float = 15.0, *, full_in_flight: int = 0
) -> tuple[float, Flow]:
    given = WORKLOADS[workload]
    flow = Flow(bound, int(given["callers"]), max_rows=int(given["max_rows"]), full_in_flight=full_in_flight)
    run(Pool(slots, given["base_s"], given["row_s"]), [flow], until_s, count_from_s=3)
    return flow.rows / (until_s - 3), flow


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_it_finds_the_pools_concurrency(slots: int, workload: str) -> None:
    rate, flow = rows_per_s(InFlightBound(MOST), slots, workload)
    best = max(rows_per_s(Fixed(n), slots, workload, 8.0)[0] for n in range(max(1, slots - 2), slots + 3))
    assert rate >= 0.9 * best
    assert 0.8 * slots <= flow.bound_between(3, 15) <= 1.25 * slots


@pytest.mark.parametrize("slots", [2, 4])
def test_the_rule_for_full_batches_loses_no_throughput(slots: int) -> None:
    rate, _ = rows_per_s(InFlightBound(MOST), slots, "full", full_in_flight=4)
    assert rate >= 0.95 * rows_per_s(Fixed(slots), slots, "full", 8.0)[0]


@pytest.mark.parametrize("slots", [2, 8])
def test_time_on_the_hop_is_filled_with_more_batches(slots: int) -> None:
    bound = InFlightBound(MOST)
    flow = Flow(bound, 64)
    run(Pool(slots, 0.004, 0.0002, hop_s=0.004), [flow], 10)
    assert flow.bound_between(5, 10) > slots + 0.3


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_it_survives_a_slow_period(slots: int) -> None:
    flow = Flow(InFlightBound(MOST), 64)
    run(Pool(slots, 0.004, 0.0002, slowness=lambda now: 4 if 10 <= now < 30 else 1), [flow], 50)
    for start, end in ((5, 10), (20, 30), (35, 50)):
        assert 0.65 * slots <= flow.bound_between(start, end) <= 1.4 * slots


@pytest.mark.parametrize("slots", [1, 4])
def test_a_model_that_becomes_faster_keeps_its_bound(slots: int) -> None:
    flow = Flow(InFlightBound(MOST), 64)
    run(Pool(slots, 0.004, 0.0002, slowness=lambda now: 0.3 if now >= 10 else 1), [flow], 25)
    assert 0.8 * slots <= flow.bound_between(15, 25) <= 1.25 * slots


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_two_busy_models_share_a_pool_fairly(slots: int) -> None:
    first, second = Flow(InFlightBound(MOST), 64), Flow(InFlightBound(MOST), 64, starts_s=5)
    run(Pool(slots, 0.004, 0.0002), [first, second], 30, count_from_s=10)
    assert 0.4 <= second.rows / (first.rows + second.rows) <= 0.6
    assert first.bound_between(10, 30) + second.bound_between(10, 30) <= 1.5 * slots + 0.5


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_busy_model_does_not_delay_a_quiet_one(slots: int) -> None:
    def seconds(busy: Bound) -> float:
        """Return the wait of the quiet model's only caller, who pauses 50 ms between requests."""
        quiet = Flow(InFlightBound(MOST), 1, think_s=0.05, starts_s=5)
        run(Pool(slots, 0.004, 0.0002), [Flow(busy, 64), quiet], 30, count_from_s=5)
        return 25 / quiet.rows - 0.05

    assert seconds(InFlightBound(MOST)) < 0.6 * seconds(Fixed(MOST))


def test_it_stays_while_no_request_waits() -> None:
    bound = InFlightBound(MOST)
    for n in range(1000):
        bound.finished(10, 1.0, alone=n % 2 == 0, limiting=False, now=float(n))
    assert bound.value == 2


def test_it_never_exceeds_the_upper_bound() -> None:
    bound = InFlightBound(3)
    flow = Flow(bound, 64)
    run(Pool(64, 0.01, 0.0001), [flow], 10)
    assert {value for _, value in flow.bounds} <= {1, 2, 3}
    assert flow.bounds[-1][1] == 3
    bound.most = 2
    assert bound.value == 2


def test_an_upper_bound_of_one_is_kept_without_measuring() -> None:
    bound = InFlightBound(1)
    for n in range(1000):
        bound.finished(10, 1.0, alone=True, limiting=True, now=float(n))
        assert bound.value == 1
        assert bound.rows_limit is None


def test_failures_end_a_measurement() -> None:
    bound = InFlightBound(MOST)
    limits = []
    for n in range(100):
        bound.finished(10, 1.0, alone=False, limiting=True, now=float(n))
        limits.append((bound.value, bound.rows_limit))
        if bound.rows_limit is not None:
            bound.failed(float(n))
            limits.append((bound.value, bound.rows_limit))
    assert limits[15:17] == [(1, 5), (2, None)]


def test_batches_may_take_no_time() -> None:
    bound = InFlightBound(MOST)
    for n in range(10_000):
        bound.finished(1, 0.0, alone=n % 3 == 0, limiting=True, now=n / 100)
    assert 1 <= bound.value <= MOST
