from __future__ import annotations

import pytest

from app.serving.placement.replication import CopyPlan
from app.serving.references import ModelVersion

HOT, COLD = ModelVersion("hot", "1"), ModelVersion("cold", "1")


def one(version: ModelVersion) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("loads", "copies"), [((0.05,), 0), ((0.5,), 1), ((1.0,), 1), ((0.7, 0.7), 2), ((2.5, 0.6), 4)]
)
def test_copies_follow_the_load_of_all_members_together(loads: tuple[float, ...], copies: int) -> None:
    plan = CopyPlan(calm_s=60)
    for number, load in enumerate(loads):
        plan.measured(f"r{number}", {HOT: load})
    plan.settle(one, 0)
    assert plan.copies(HOT) == copies
    assert plan.copies(COLD) == 0


def test_copies_grow_at_once_and_shrink_only_after_a_calm_while() -> None:
    plan = CopyPlan(calm_s=60)
    seen = []
    for now, load in [(0, 2.5), (10, 0.5), (50, 0.5), (71, 0.5), (80, 1.5), (100, 0.0), (139, 0.0), (141, 0.0)]:
        plan.measured("r", {HOT: load})
        plan.settle(one, now)
        seen.append(plan.copies(HOT))
    assert seen == [3, 3, 3, 1, 2, 2, 2, 0]


def test_a_load_that_comes_back_within_the_while_starts_it_anew() -> None:
    plan = CopyPlan(calm_s=60)
    for now, load in [(0, 2.5), (50, 0.5), (55, 2.5), (100, 0.5)]:
        plan.measured("r", {HOT: load})
        plan.settle(one, now)
    assert plan.copies(HOT) == 3


def test_the_load_of_a_member_that_left_does_not_count() -> None:
    plan = CopyPlan(calm_s=0)
    plan.measured("a", {HOT: 1.0})
    plan.measured("b", {HOT: 1.0})
    plan.settle(one, 0)
    assert dict(plan.hot) == {HOT: 2}
    plan.left("a")
    plan.settle(one, 1)
    assert dict(plan.hot) == {HOT: 1}
