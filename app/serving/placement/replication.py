"""How many members of a pool hold a version, derived from the load of that version."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from app.serving.references import ModelVersion

HOT = 0.1
"""Share of one copy's load from which a version gets copies of its own; colder ones stay where a call loaded them."""


class CopyLevel(NamedTuple):
    """Copies that the load of a version asks for; a lower load counts only after `until` (monotonic seconds)."""

    copies: int = 0
    until: float = 0.0


def copy_levels(
    before: Mapping[ModelVersion, CopyLevel],
    loads: Iterable[Mapping[ModelVersion, float]],
    per_copy: Callable[[ModelVersion], float],
    *,
    calm_s: float,
    now: float,
) -> dict[ModelVersion, CopyLevel]:
    """Work out the copies of each version. They grow with the load at once and shrink after a calm period.

    Args:
        loads: per pool member the prediction threads that each version kept busy there, on average.
        per_copy: threads that a version may keep busy on each member that holds it.
        calm_s: seconds that a lower load must last.
        now: monotonic time in seconds.
    """
    total: Counter[ModelVersion] = Counter()  # of threads, as floats
    for load in loads:
        total.update(load)
    levels = {}
    for version in total.keys() | before.keys():
        most = per_copy(version)
        wanted = math.ceil(total[version] / most) if total[version] >= HOT * most else 0
        level = before.get(version, CopyLevel())
        if wanted >= level.copies or now >= level.until:
            level = CopyLevel(wanted, now + calm_s)
        if level.copies:
            levels[version] = level
    return levels
