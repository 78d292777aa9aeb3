"""The members of all pools: who lives, what each says that it holds, and which of them should hold what.

Part of `app.serving.releases.reconciler`, which knows the registered models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.serving.placement.rendezvous import Ring
from app.serving.placement.replication import CopyPlan
from app.serving.placement.states import State, VersionState
from app.serving.references import ModelVersion

EVERYWHERE = sys.maxsize
"""`PoolPlan.copies` where each member holds all, because its callers can use no other."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What is to be known of a pool's settings.

    `copies` is the fewest members that hold what is resident, `busy_per_copy` the prediction threads that a version may
    keep busy on each before one more shall hold it. A pool that may be `cold` may have no member; what it hosts does
    not count for readiness.
    """

    copies: int = 2
    busy_per_copy: float = 1.0
    cold: bool = False


@dataclass(slots=True)
class _Member:
    pool: str
    states: dict[ModelVersion, VersionState] = field(default_factory=dict)
    seen: float = 0.0


class PoolMembers:
    """Not thread-safe: it lives on one event loop. Times are monotonic, in seconds.

    Args:
        pools: the configured pools.
        pool_of: the pool that a version belongs to, configured or not.
        ttl_s: seconds after which a member that is not heard of counts as gone.
        calm_s: seconds for which a version's load must be lower before it has fewer copies.
    """

    def __init__(
        self, pools: Mapping[str, PoolPlan], pool_of: Callable[[ModelVersion], str], *, ttl_s: float, calm_s: float
    ) -> None:
        self._pools = pools
        self._pool_of = pool_of
        self._ttl_s = ttl_s
        self._members: dict[str, _Member] = {}
        self._rings: dict[str, Ring] = {}
        self._copy_plan = CopyPlan(calm_s)

    # What comes in

    def reported(self, member_id: str, pool: str, states: Mapping[ModelVersion, VersionState], now: float) -> None:
        """What one member holds."""
        if member_id not in self._members:
            self._rings.pop(pool, None)
        self._members[member_id] = _Member(pool, dict(states), now)

    def worked(self, member_id: str, busy: Mapping[ModelVersion, float]) -> None:
        """Prediction threads that each version has kept busy on one member."""
        if member_id in self._members:
            self._copy_plan.measured(member_id, busy)

    def heard_of(self, member_id: str, now: float) -> None:
        """The member lives; what it holds has not changed."""
        if member_id in self._members:
            self._members[member_id].seen = now

    def left(self, member_id: str) -> None:
        """The member has ended."""
        member = self._members.pop(member_id, None)
        if member is not None:
            self._rings.pop(member.pool, None)
            self._copy_plan.left(member_id)

    def forgive(self, version: ModelVersion) -> None:
        """Forget that the version has failed: it is tried again."""
        for member in self._members.values():
            if (known := member.states.get(version)) is not None and known.state == "failed":
                del member.states[version]

    def released(self, version: ModelVersion) -> None:
        """All members are told to let the version go: from now on nobody counts on it, whenever they report that."""
        for member in self._members.values():
            member.states.pop(version, None)

    def settle(self, now: float) -> None:
        """Drop members that are not heard of, and count copies anew."""
        for member_id in [key for key, member in self._members.items() if now - member.seen > self._ttl_s]:
            self.left(member_id)
        self._copy_plan.settle(lambda version: self._plan(version).busy_per_copy, now)

    # What comes out

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Per pool its members."""
        return {pool: tuple(sorted(self._ring(pool).members)) for pool in sorted(self._pools)}

    @property
    def versions(self) -> set[ModelVersion]:
        """Every version of which some member says something."""
        return {version for member in self._members.values() for version in member.states}

    @property
    def failures(self) -> dict[ModelVersion, str]:
        """What some member failed to load, and why."""
        states = [item for member in self._members.values() for item in member.states.items()]
        return {version: state.error or "" for version, state in states if state.state == "failed"}

    @property
    def hot(self) -> Mapping[ModelVersion, int]:
        """Versions that make so much work that it asks for copies, and for how many."""
        return self._copy_plan.hot

    def copies_of(self, version: ModelVersion) -> int:
        """Copies of a version that is resident."""
        return max(self._plan(version).copies, self._copy_plan.copies(version))

    def is_asleep(self, pool: str) -> bool:
        """Whether a pool that may have no member has none."""
        plan = self._pools.get(pool)
        return plan is not None and plan.cold and not self._ring(pool).members

    def states(self, version: ModelVersion) -> list[VersionState]:
        """What the members of its pool say of the version, those that know of it."""
        return [known for known in self._states(version).values() if known is not None]

    def holds(self, version: ModelVersion) -> bool:
        """Whether some member has the version in memory."""
        return any(known.state == "ready" for known in self.states(version))

    def error(self, version: ModelVersion) -> str | None:
        """What a member said when it failed to load the version."""
        return next((known.error for known in self.states(version) if known.state == "failed"), None)

    def problem(self, version: ModelVersion) -> str | None:
        """What a member that has loaded the version holds against it."""
        return next((known.problem for known in self.states(version) if known.problem), None)

    def state(self, version: ModelVersion) -> State | None:
        """One word for all members: ready where each has it that should hold it, failed where one failed."""
        states = self._states(version)
        kinds = {known.state for known in states.values() if known is not None}
        if "failed" in kinds:
            return "failed"
        holders = [states[member] for member in self._holders(version)]
        if holders and all(known is not None and known.state == "ready" for known in holders):
            return "ready"
        return "loading" if "loading" in kinds else None

    def _holders(self, version: ModelVersion) -> list[str]:
        return list(self._ring(self._pool_of(version)).holders(version, self.copies_of(version)))

    def _states(self, version: ModelVersion) -> dict[str, VersionState | None]:
        members = self._ring(self._pool_of(version)).members
        return {member: self._members[member].states.get(version) for member in members}

    def _plan(self, version: ModelVersion) -> PoolPlan:
        return self._pools.get(self._pool_of(version), PoolPlan())

    def _ring(self, pool: str) -> Ring:
        ring = self._rings.get(pool)
        if ring is None:
            ring = self._rings[pool] = Ring(key for key, member in self._members.items() if member.pool == pool)
        return ring
