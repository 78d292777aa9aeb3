from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from app.serving.placement.replication import CopyLevel, copy_levels
from app.serving.references import ModelVersion

HOT, COLD = ModelVersion("hot", "1"), ModelVersion("cold", "1")
Levels = Mapping[ModelVersion, CopyLevel]


def levels(before: Levels, loads: Iterable[float], now: float, calm_s: float = 60) -> Levels:
    """Copies after each member has reported its load of one version; a copy takes the load of one thread."""
    return copy_levels(before, [{HOT: load} for load in loads], lambda _: 1.0, calm_s=calm_s, now=now)


def copies(levels: Levels) -> dict[ModelVersion, int]:
    return {version: level.copies for version, level in levels.items()}


@pytest.mark.parametrize(
    ("loads", "expected"), [((0.05,), 0), ((0.5,), 1), ((1.0,), 1), ((0.7, 0.7), 2), ((2.5, 0.6), 4)]
)
def test_copies_follow_the_load_of_all_members_together(loads: tuple[float, ...], expected: int) -> None:
    assert copies(levels({}, loads, 0)) == ({HOT: expected} if expected else {})


def test_copies_grow_at_once_and_shrink_after_a_calm_period() -> None:
    known: Levels = {}
    seen = []
    for now, load in [(0, 2.5), (10, 0.5), (50, 0.5), (71, 0.5), (80, 1.5), (100, 0.0), (139, 0.0), (141, 0.0)]:
        known = levels(known, [load], now)
        seen.append(copies(known).get(HOT, 0))
    assert seen == [3, 3, 3, 1, 2, 2, 2, 0]


def test_a_load_that_returns_starts_the_calm_period_again() -> None:
    known: Levels = {}
    for now, load in [(0, 2.5), (50, 0.5), (55, 2.5), (100, 0.5)]:
        known = levels(known, [load], now)
    assert copies(known) == {HOT: 3}


def test_the_load_of_a_member_that_left_does_not_count() -> None:
    known = levels({}, [1.0, 1.0], 0, calm_s=0)
    assert copies(known) == {HOT: 2}
    assert copies(levels(known, [1.0], 1, calm_s=0)) == {HOT: 1}


def test_each_version_is_measured_by_its_own_pool() -> None:
    busy = {HOT: 2.0, COLD: 2.0}
    found = copy_levels({}, [busy], lambda version: 4.0 if version == COLD else 1.0, calm_s=60, now=0)
    assert copies(found) == {HOT: 2, COLD: 1}
