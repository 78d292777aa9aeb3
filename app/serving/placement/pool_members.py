"""What the members of all pools hold, and which of them should hold which version."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from app.serving.placement.rendezvous import ranked
from app.serving.placement.replication import CopyLevel
from app.serving.placement.states import State, VersionState
from app.serving.references import ModelVersion

EVERYWHERE = sys.maxsize
"""`PoolPlan.copies` of a pool whose every member must hold every resident version."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Settings of a pool that decide about placement.

    `copies` is the fewest members that hold a resident version, `busy_per_copy` the prediction threads that a version
    may keep busy on each member before it gets another copy. A `cold` pool may scale to zero; readiness ignores it.
    """

    copies: int = 2
    busy_per_copy: float = 1.0
    cold: bool = False


@dataclass(frozen=True, slots=True)
class MemberReport:
    """Last report of one pool member; `seen` is when it was last heard of, in monotonic seconds.

    `busy` has the prediction threads that each version kept busy, on average.
    """

    pool: str
    states: Mapping[ModelVersion, VersionState] = field(default_factory=dict)
    seen: float = 0.0
    busy: Mapping[ModelVersion, float] = field(default_factory=dict)

    def without(self, version: ModelVersion) -> MemberReport:
        """Return the report without one version."""
        states = {known: state for known, state in self.states.items() if known != version}
        return replace(self, states=states) if version in self.states else self


class PoolMembers:
    """Immutable view of the members of all pools at one time.

    Args:
        reports: the last report of each member, by the member's id.
        pools: the configured pools.
        levels: copies that the load of a version asks for.
        pool_of: the pool that a version belongs to, configured or not.
    """

    def __init__(
        self,
        reports: Mapping[str, MemberReport] = MappingProxyType({}),
        pools: Mapping[str, PoolPlan] = MappingProxyType({}),
        levels: Mapping[ModelVersion, CopyLevel] = MappingProxyType({}),
        pool_of: Callable[[ModelVersion], str] = lambda _: "",
    ) -> None:
        self._reports = reports
        self._pools = pools
        self._levels = levels
        self._pool_of = pool_of
        members: dict[str, list[str]] = {}
        for member, report in reports.items():
            members.setdefault(report.pool, []).append(member)
        self._members = {pool: frozenset(names) for pool, names in members.items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Members by pool."""
        return {pool: tuple(sorted(self._of(pool))) for pool in sorted(self._pools)}

    @property
    def versions(self) -> set[ModelVersion]:
        """Every version that some member has reported."""
        return {version for report in self._reports.values() for version in report.states}

    @property
    def failures(self) -> dict[ModelVersion, str]:
        """Errors of the versions that some member failed to load."""
        states = [item for report in self._reports.values() for item in report.states.items()]
        return {version: state.error or "" for version, state in states if state.state == "failed"}

    def copies_of(self, version: ModelVersion) -> int:
        """Return how many members should hold a resident version."""
        plan = self._pools.get(self._pool_of(version), _DEFAULT_PLAN)
        return max(plan.copies, self._levels.get(version, _COLD).copies)

    def is_asleep(self, pool: str) -> bool:
        """Whether a pool has scaled to zero."""
        return self._pools.get(pool, _DEFAULT_PLAN).cold and not self._of(pool)

    def states(self, version: ModelVersion) -> list[VersionState]:
        """Return the states of the version on those members of its pool that know it."""
        members = self._of(self._pool_of(version))
        return [state for member in members if (state := self._reports[member].states.get(version)) is not None]

    def holds(self, version: ModelVersion) -> bool:
        """Whether some member has the version in memory."""
        return any(known.state == "ready" for known in self.states(version))

    def has_tried(self, version: ModelVersion) -> bool:
        """Whether some member has loaded the version, or failed to."""
        return any(known.state != "loading" for known in self.states(version))

    def error(self, version: ModelVersion) -> str | None:
        """Return the error of a member that failed to load the version."""
        return next((known.error for known in self.states(version) if known.state == "failed"), None)

    def problem(self, version: ModelVersion) -> str | None:
        """Return why the version should not serve although it is loaded."""
        return next((known.problem for known in self.states(version) if known.problem), None)

    def state(self, version: ModelVersion) -> State | None:
        """Return the state over all members: failed where one failed, ready where each holder has it loaded."""
        kinds = {known.state for known in self.states(version)}
        if "failed" in kinds:
            return "failed"
        if "ready" in kinds:
            holders = ranked(self._of(self._pool_of(version)), version)[: self.copies_of(version)]
            known = [self._reports[member].states.get(version) for member in holders]
            if all(state is not None and state.state == "ready" for state in known):
                return "ready"
        return "loading" if "loading" in kinds else None

    def _of(self, pool: str) -> frozenset[str]:
        return self._members.get(pool, frozenset())


_DEFAULT_PLAN = PoolPlan()
_COLD = CopyLevel()
