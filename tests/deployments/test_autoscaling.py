from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.deployments.autoscaling import BUSY, ONGOING, ROWS, WAIT_MS, PoolScalingPolicy, RequestScalingPolicy

policy = PoolScalingPolicy(target_rows=100, target_busy=0.5, target_wait_ms=200)


def context(replicas: int, stats: dict[str, list[float]], calls: float = 0, target: int = 7) -> Any:
    return SimpleNamespace(
        current_num_replicas=replicas,
        target_num_replicas=target,
        total_num_requests=calls,
        aggregated_metrics={name: dict(enumerate(values)) for name, values in stats.items()},
    )


def stats(rows: list[float], busy: list[float], wait_ms: list[float]) -> dict[str, list[float]]:
    return {ROWS: rows, BUSY: busy, WAIT_MS: wait_ms}


@pytest.mark.parametrize(
    ("rows", "busy", "wait_ms", "wanted"),
    [
        ([50, 50], [0.1, 0.1], [0, 0], 1),
        ([300, 100], [0.1, 0.1], [0, 0], 4),
        ([10, 10], [1.0, 0.75], [0, 0], 3.5),
        ([10, 10], [0.1, 0.1], [0, 201], 3),
        ([300, 200], [0.1, 0.1], [300, 300], 5),
        ([0, 0], [0, 0], [0, 0], 0),
    ],
)
def test_the_largest_of_the_wanted_replica_counts_wins(
    rows: list[float], busy: list[float], wait_ms: list[float], wanted: float
) -> None:
    assert policy(context(2, stats(rows, busy, wait_ms)))[0] == pytest.approx(wanted)


def test_a_call_without_rows_keeps_one_replica() -> None:
    assert policy(context(1, stats([0], [0], [0]), calls=1)) == (1, {})


@pytest.mark.parametrize(("replicas", "known"), [(0, 0), (1, 0), (2, 1)])
def test_nothing_changes_while_a_replica_has_not_reported(replicas: int, known: int) -> None:
    assert policy(context(replicas, stats([900] * known, [1] * known, [900] * known))) == (7, {})


@pytest.mark.parametrize(
    ("replicas", "ongoing", "calls", "wanted"),
    [(1, [0], 0, 0), (1, [50], 0, 2.5), (2, [10, 30], 20, 3), (2, [100], 20, 7), (0, [], 0, 0)],
    ids=["none", "past Serve", "both ways", "one has not reported", "no replica"],
)
def test_gateways_scale_on_all_requests_in_progress(
    replicas: int, ongoing: list[float], calls: float, wanted: float
) -> None:
    gateways = RequestScalingPolicy(target_ongoing_requests=20)
    assert gateways(context(replicas, {ONGOING: ongoing}, calls=calls)) == (wanted, {})
