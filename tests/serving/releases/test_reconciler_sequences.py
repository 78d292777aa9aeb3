"""Random sequences of events over registry, control loop, snapshot and pool, checked against a small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.control.loop import ControlLoop
from app.control.promotions import Promotions
from app.control.registry_sync import RegistrySync
from app.control.snapshot import decode, encode
from app.errors import Conflict, ModelNotFound, ModelUnavailable
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE, AliasState
from app.serving.releases.observed import Contract
from app.serving.releases.release_state import Now, ReleaseSettings
from app.serving.releases.table import ReleaseTable
from tests.control.registry_in_memory import Model, RegistryInMemory
from tests.serving.releases.engine import FAILED, READY

T = TypeVar("T")

SETTINGS = ReleaseSettings("champion", ["*"], {"default": PoolPlan(cold=True)}, grace_s=15)
LAG_S = 5.1
VERSIONS = "123"
INPUTS: dict[str, list[dict[str, Any]]] = {
    "1": [{"name": "oil", "type": "double", "required": True}],
    "2": [{"name": "oil", "type": "double", "required": True}],
    "3": [{"name": name, "type": "double", "required": True} for name in ("oil", "gas")],
}
aliases = st.sampled_from(["champion", "challenger"])
versions = st.sampled_from(list(VERSIONS))
members = st.sampled_from(["r1", "r2", "r3"])


class Sequences(RuleBasedStateMachine):
    """Three members at most, one model of three versions, whose third one takes other inputs.

    Attributes:
        held: what each living member holds, and has reported.
        tables: the table that each living member has followed last.
        seen: when each living member has reported last; one that is silent for long counts as gone.
        broken: versions that cannot be loaded.
        promised: per alias the version that a promote or rollback reported to answer; until somebody moves the alias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.runner = asyncio.Runner()
        self.registry = RegistryInMemory(m=Model({"champion": "1"}))
        self.held: dict[str, dict[ModelVersion, VersionState]] = {}
        self.tables: dict[str, ReleaseTable] = {}
        self.seen: dict[str, float] = {}
        self.term = 0
        self.broken: set[str] = set()
        self.promised: dict[str, str] = {}
        self.is_lagging = False
        self.created = 1
        self.before: dict[str, AliasState] = {}
        self.since_created = 0
        self.loop = self._start()

    def teardown(self) -> None:
        self.runner.close()

    # What happens elsewhere

    @initialize()
    def begin(self) -> None:
        self.member_joins("r1")
        self.poll()
        self.members_load()

    @rule(alias=aliases, version=versions)
    def alias_moved_in_the_registry(self, alias: str, version: str) -> None:
        self._catch_up()
        self.registry.of["m"].aliases[alias] = version
        self.promised.pop(alias, None)
        self.poll()

    @rule(alias=aliases)
    def alias_deleted_in_the_registry(self, alias: str) -> None:
        self._catch_up()
        self.registry.of["m"].aliases.pop(alias, None)
        self.promised.pop(alias, None)
        self.poll()

    @rule()
    def model_deleted_and_registered_again(self) -> None:
        self._catch_up()
        self.created += 1
        self.registry.of["m"] = Model({"champion": "1"}, created=self.created)
        self.promised.clear()
        for held in self.held.values():
            held.clear()
        self.poll()
        self._report(*self.held)

    @rule()
    def registry_begins_to_lag(self) -> None:
        self.registry.lag_behind()
        self.is_lagging = True

    @rule()
    def poll(self) -> None:
        self._run(self.sync._poll_once())

    @rule(seconds=st.sampled_from([1.0, 4.0, 9.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        if seconds > 1:
            self._catch_up()
        self.now += seconds
        self._report(*self.held)
        self._run(self.loop.observe())

    # The pool

    @rule(member=members)
    def member_joins(self, member: str) -> None:
        self.held.setdefault(member, {})
        self.tables.setdefault(member, ReleaseTable())
        self._report(member)

    @rule(member=members)
    def member_dies(self, member: str) -> None:
        self.held.pop(member, None)
        self.tables.pop(member, None)
        self._run(self.loop.observe(lambda observed: observed.left(member)))

    @rule()
    def pool_scales_to_zero(self) -> None:
        for member in list(self.held):
            self.member_dies(member)

    @rule(version=versions)
    def version_breaks(self, version: str) -> None:
        self.broken.add(version)

    @rule(version=versions)
    def version_is_mended(self, version: str) -> None:
        self.broken.discard(version)

    @rule(member=members)
    def member_loads(self, member: str) -> None:
        if member in self.held:
            self._obey(member)
            self._report(member)

    @rule()
    def members_load(self) -> None:
        for member in list(self.held):
            self.member_loads(member)

    @rule(version=versions)
    def unload(self, version: str) -> None:
        """Members drop it when they next follow the table, and may report it until then."""
        self._run(self.loop.observe(lambda observed: observed.unload(ModelVersion("m", version))))

    # Orders

    @rule(alias=aliases, version=versions, force=st.booleans())
    def promote(self, alias: str, version: str, force: bool) -> None:
        try:
            switch = self._run(self.promotions.promote(ModelVersion("m", version), alias, force=force))
        except (Conflict, ModelUnavailable):
            return
        self.promised[alias] = switch.version.version
        assert self.registry.of["m"].aliases[alias] == version

    @rule(alias=aliases)
    def rollback(self, alias: str) -> None:
        try:
            switch = self._run(self.promotions.rollback("m", alias))
        except (Conflict, ModelUnavailable, ModelNotFound):
            return
        self.promised[alias] = switch.version.version
        assert self.registry.of["m"].aliases[alias] == switch.version.version

    # Releases

    @rule()
    def restart(self) -> None:
        """What was written is on disk, what members reported is not."""
        self._catch_up()
        self.loop = self._start(json.loads(json.dumps(encode(self.loop.state))))
        self.poll()
        self._report(*self.held)

    @precondition(lambda self: self.held)
    @rule()
    def everything_converges(self) -> None:
        """Once nothing more happens, each alias answers what the registry names, or says why it does not."""
        self._catch_up()
        self.now += 700
        self._report(*self.held)
        self.poll()
        for _ in range(3):
            self.members_load()
        for alias, named in self.registry.of["m"].aliases.items():
            state = self.loop.state.aliases["m"][alias]
            assert state.desired == named
            assert state.phase in ("live", "blocked", "idle"), state
            if state.phase == "blocked":
                assert state.reason
                assert self.loop.state.table.releases["m"].blocked[alias] == state.reason
                assert named in self.broken or "other inputs" in state.reason or self._was_tried(named)
            else:
                assert state.live == named
        assert self.loop.state.observed.intents == {}
        assert self.loop.state.observed.requests.wanted == {}

    # What must hold after each of them

    @invariant()
    def promised_versions_answer(self) -> None:
        for alias, version in self.promised.items():
            assert self.loop.state.live("m", alias) == version, (alias, version)
            if alias == "champion":
                assert self.loop.state.live("m", BARE) == version

    @invariant()
    def the_table_says_what_the_states_say(self) -> None:
        release = self.loop.state.table.releases.get("m")
        found = {alias: one.live for alias, one in self.loop.state.aliases.get("m", {}).items()}
        assert release is None or {BARE: release.default, **release.aliases} == found

    def _check(self) -> None:
        """After each single event: a switch is to a desired version that is warm, unless it is the first one."""
        aliases = dict(self.loop.state.aliases.get("m", {}))
        created = self.loop.state.models["m"].created if aliases else self.since_created
        if created != self.since_created:
            self.since_created, self.before = created, {}
        for alias, after in aliases.items():
            before = self.before.get(alias)
            if before is None or before.live == after.live:
                continue
            assert after.live == after.desired, "only a desired version begins to answer"
            assert after.previous == before.live
            if self.held or self.now < self.loop.state.grace_until:
                self._require_warm(ModelVersion("m", after.live))
        self.before = aliases

    def _require_warm(self, version: ModelVersion) -> None:
        heard_of = [member for member in self.held if self.seen[member] >= self.now - SETTINGS.member_ttl_s]
        reports = [self.held[member].get(version) for member in heard_of if version not in self._to_drop(member)]
        ready = sum(one is not None and one.state == "ready" for one in reports)
        assert ready >= min(SETTINGS.pools["default"].copies, len(heard_of)), (version, self.held)
        assert not any(one is not None and one.state == "failed" for one in reports)

    def _was_tried(self, version: str) -> bool:
        """Whether some member has failed to load the version, which is not tried again by itself."""
        return any(one.get(ModelVersion("m", version)) == FAILED for one in self.held.values())

    def _obey(self, member: str) -> None:
        """The member follows the table: it drops and tries again what callers asked for, and loads what is missing."""
        held, table, before = self.held[member], self.loop.state.table, self._followed(member)
        retried = {one for one, count in table.retries.items() if count > before.retries.get(one, 0)}
        for version in self._to_drop(member) | {one for one in retried if held.get(one) == FAILED}:
            held.pop(version, None)
        self.tables[member] = table
        for version in table.share("default", member).resident - held.keys():
            held[version] = FAILED if version.version in self.broken else READY

    def _to_drop(self, member: str) -> set[ModelVersion]:
        """Versions that callers unloaded since the member has followed the table last."""
        before = self._followed(member).unloads
        return {one for one, count in self.loop.state.table.unloads.items() if count > before.get(one, 0)}

    def _followed(self, member: str) -> ReleaseTable:
        table = self.tables[member]
        return table if table.term == self.term else ReleaseTable()

    def _report(self, *members: str) -> None:
        for member in members:
            self._run(self._reported(member))

    async def _reported(self, member: str) -> None:
        held = dict(self.held[member])
        contracts = {one: Contract(INPUTS[one.version]) for one, state in held.items() if state == READY}
        self.seen[member] = self.now
        orders = self._followed(member).orders()
        await self.loop.observe(
            lambda seen: seen.reported(member, "default", held, contracts, orders=orders, now=self.now)
        )
        self._check()

    async def _warm(self, version: ModelVersion) -> None:
        """Members load what is wanted, one after the other; after a restart the control plane waits for them."""
        self.now = max(self.now, self.loop.state.reunion_until)
        if not self.held:  # a call wakes the pool
            self.held["r1"] = {}
            self.tables["r1"] = ReleaseTable()
        for member in self.held:
            self._obey(member)
            await self._reported(member)
        if self.loop.state.members.state(version) != "ready":
            raise ModelUnavailable(f"{version} is broken")

    def _start(self, snapshot: dict[str, Any] | None = None) -> ControlLoop:
        """A new life of the control plane."""
        self.term += 1
        loop = ControlLoop(SETTINGS, term=self.term, clock=lambda: Now(self.now, self.now))
        if snapshot is not None:
            loop.state = decode(snapshot, loop.state, loop.clock(), SETTINGS)
            self.runner.run(loop.observe())
        self.sync = RegistrySync(cast(Any, self.registry), loop, 600)
        self.promotions = Promotions(loop, self.sync, read_only=False, warm=self._warm)
        return loop

    def _catch_up(self) -> None:
        """A registry lags for a few seconds at most."""
        if self.is_lagging:
            self.registry.catch_up()
            self.is_lagging = False
            self.now += LAG_S
            self._report(*self.held)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def all_of_it() -> T:
            try:
                return await work
            finally:
                await asyncio.gather(*self.promotions._confirming)

        try:
            return self.runner.run(all_of_it())
        finally:
            self._check()


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
