"""How many replicas of a pool should hold a version, from how much work it makes.

`app.serving.releases.reconciler` feeds it with what pool members report, and asks it when it works out the table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.serving.references import ModelVersion

HOT = 0.1
"""Share of one copy's work from which a version is worth a place of its own on the ring; what makes less stays where a
call has brought it."""


@dataclass(slots=True)
class _Level:
    copies: int = 0
    until: float = 0.0


class CopyPlan:
    """Copies wanted per version. They grow as soon as the load does and shrink when it has been lower for a while.

    Args:
        calm_s: seconds that a lower load must last.
    """

    def __init__(self, calm_s: float) -> None:
        self._calm_s = calm_s
        self._loads: dict[str, dict[ModelVersion, float]] = {}
        self._levels: dict[ModelVersion, _Level] = {}

    def measured(self, member: str, loads: Mapping[ModelVersion, float]) -> None:
        """What one member reports: prediction threads that each version kept busy there, on average."""
        self._loads[member] = dict(loads)

    def left(self, member: str) -> None:
        """The member is gone, and its load with it: others will report it."""
        self._loads.pop(member, None)

    def settle(self, per_copy: Callable[[ModelVersion], float], now: float) -> None:
        """Work out the levels anew.

        Args:
            per_copy: threads that a version may keep busy on each member that holds it.
            now: monotonic time in seconds.
        """
        total: dict[ModelVersion, float] = defaultdict(float)
        for loads in self._loads.values():
            for version, load in loads.items():
                total[version] += load
        for version in total.keys() | self._levels.keys():
            load = total.get(version, 0.0)
            most = per_copy(version)
            wanted = math.ceil(load / most) if load >= HOT * most else 0
            level = self._levels.setdefault(version, _Level())
            if wanted >= level.copies or now >= level.until:
                level.copies, level.until = wanted, now + self._calm_s
        self._levels = {version: level for version, level in self._levels.items() if level.copies}

    def copies(self, version: ModelVersion) -> int:
        """Copies that the load asks for; 0 where it asks for none."""
        level = self._levels.get(version)
        return level.copies if level is not None else 0

    @property
    def hot(self) -> Mapping[ModelVersion, int]:
        """All versions whose load asks for copies."""
        return {version: level.copies for version, level in self._levels.items()}
