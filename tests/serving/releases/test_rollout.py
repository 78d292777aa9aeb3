"""Rollouts: when an alias switches, what blocks it, what stays in memory, and what a restart remembers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.control.snapshot import decode
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import live_tag
from app.serving.releases.observed import Contract, with_contracts
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.release_state import Now, ReleaseState
from app.serving.releases.status import release_health
from app.serving.releases.tags import LIVE_TAG
from app.serving.releases.traffic import Traffic, Variant
from tests.serving.releases.engine import FAILED, LOADING, READY, V1, V2, V3, Engine

SAME = [{"name": "oil", "type": "double", "required": True}]
OTHER = [*SAME, {"name": "gas", "type": "double", "required": True}]


class World(Engine):
    """An engine with one pool member, and the registry of one model."""

    def __init__(self, *, snapshot: dict[str, Any] | None = None, cold: bool = False, now: float = 1_000.0) -> None:
        super().__init__(snapshot=snapshot, pools={"default": PoolPlan(cold=cold)}, now=now)
        self.tags: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def reads(self, tags: dict[str, str] | None = None, **aliases: str) -> None:
        """The registry is read, and holds this."""
        self.tags = self.tags if tags is None else tags
        self.aliases = aliases
        self.registry(RegisteredModel("m", aliases, self.tags, "3", 7))

    def pool(self, states: dict[ModelVersion, VersionState], inputs: Sequence[Any] | None = SAME, **of: Any) -> None:
        """The pool holds this; what is ready takes `inputs`, unless ``v1=`` says otherwise."""
        ready = [version for version, state in states.items() if state.state == "ready"]
        self.report("r1", states, {version: Contract(of.get(f"v{version.version}", inputs)) for version in ready})

    @property
    def blocked(self) -> dict[str, str]:
        return dict(self.table.releases["m"].blocked)

    @property
    def resident(self) -> set[ModelVersion]:
        return set(self.table.resident["default"])

    @property
    def traffic(self) -> Traffic | None:
        return self.table.releases["m"].traffic

    @property
    def live_tag(self) -> str | None:
        return live_tag(self.state.aliases["m"], "champion")


@pytest.fixture
def world() -> World:
    """Version 1 is champion, and answers."""
    world = World()
    world.reads(champion="1")
    world.pool({V1: READY})
    return world


def test_the_previous_version_stays_for_an_instant_rollback(world: World) -> None:
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    assert world.answers() == "2"
    assert world.resident == {V1, V2}
    world.reads(champion="1")
    assert world.answers() == "1"
    assert world.resident == {V1, V2}
    world.now += 601
    world.settle()
    assert world.resident == {V1}


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_an_incompatible_version_does_not_answer(world: World, alias: str) -> None:
    world.reads(champion="1", challenger="1")
    world.reads(None, **{**world.aliases, alias: "2"})
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    assert world.answers(f"m@{alias}") == "1"
    reason = world.blocked[alias]
    assert reason.startswith("version 2 takes other inputs than version 1: ")
    assert "'gas'" in reason
    status = world.status()
    assert status.blocked == {alias: reason}
    assert status.desired[alias] == "2"
    health = release_health(world.state, None)
    assert health["models"] == {"status": "degraded", "blocked": [f"m@{alias} stays at version 1: {reason}"]}


def test_a_tag_forces_one_incompatible_version(world: World) -> None:
    world.reads({"serving.force": "3"}, champion="2")
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    assert world.answers() == "1", "the tag names another version"
    world.reads({"serving.force": "2"}, champion="2")
    assert world.answers() == "2"
    assert not world.blocked


@pytest.mark.parametrize("inputs", [SAME, OTHER])
def test_a_version_that_a_call_has_loaded_is_compared_too(world: World, inputs: Sequence[Any]) -> None:
    """A member reports the contract of what it has to hold, and holds this one already when the alias moves."""
    world.report("r1", {V1: READY, V2: READY}, {})
    world.reads(champion="2")
    assert world.answers() == "1"
    assert V2 in world.resident
    assert not world.blocked
    world.pool({V1: READY, V2: READY}, v2=inputs)
    assert (world.answers(), set(world.blocked)) == (("2", set()) if inputs is SAME else ("1", {"champion"}))


def test_versions_that_take_the_same_share_one_contract() -> None:
    reported = {version: Contract([dict(spec) for spec in (OTHER if version is V3 else SAME)]) for version in (V1, V2)}
    contracts = with_contracts(with_contracts({}, reported), {V3: Contract([dict(spec) for spec in OTHER])})
    assert contracts[V1] is contracts[V2]
    assert contracts[V3].inputs == OTHER


def test_the_previous_version_comes_back_whatever_its_inputs(world: World) -> None:
    world.reads({"serving.force": "2"}, champion="2")
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    world.reads({}, champion="1")
    assert world.answers() == "1"


def test_a_version_that_fails_its_example_answers_only_by_force(world: World) -> None:
    world.reads(champion="2")
    odd = VersionState("ready", None, 100, 5.0, problem="it does not predict its own input example")
    world.pool({V1: READY, V2: odd})
    assert world.answers() == "1"
    assert world.blocked == {"champion": "version 2 is not switched to: it does not predict its own input example"}
    world.reads({"serving.force": "2"}, champion="2")
    assert world.answers() == "2"


def test_the_live_version_is_loaded_to_compare_with_it() -> None:
    world = World()
    world.reads(champion="1", challenger="1")
    world.report("r1", {V1: READY}, {})
    world.reads(champion="1", challenger="2")
    assert world.resident == {V1, V2}
    world.pool({V2: READY})
    assert world.answers("m@challenger") == "1", "nobody has said yet what version 1 takes"
    world.pool({V1: READY, V2: READY})
    assert world.answers("m@challenger") == "2"


def test_a_broken_live_version_does_not_block_its_successor(world: World) -> None:
    fresh = World()
    fresh.reads(champion="1")
    fresh.pool({V1: FAILED})
    fresh.reads(champion="2")
    fresh.pool({V1: FAILED, V2: READY})
    assert fresh.answers() == "2"


def test_a_failed_version_says_why_and_another_replaces_it(world: World) -> None:
    world.reads(champion="2")
    world.pool({V1: READY, V2: FAILED})
    assert world.blocked == {"champion": "it is broken"}
    assert world.answers() == "1"
    world.reads(champion="3")
    world.pool({V1: READY, V3: READY})
    assert world.answers() == "3"
    assert world.status().live["champion"]["previous"] == "1"


def asleep_while(blocked: dict[ModelVersion, VersionState], inputs: Sequence[Any] = SAME) -> World:
    """Version 1 answers, version 2 is blocked, and the pool goes to zero replicas."""
    world = World(cold=True)
    world.reads(champion="1")
    world.pool({V1: READY})
    world.reads(champion="2")
    world.pool({V1: READY, **blocked}, inputs, v1=SAME)
    assert world.blocked.keys() == {"champion"}
    world.left("r1")
    world.settle()
    return world


BROKEN = {V2: FAILED}
CHANGED = {V2: READY}


@pytest.mark.parametrize(("blocked", "inputs"), [(BROKEN, SAME), (CHANGED, OTHER)], ids=["broken", "other inputs"])
def test_a_blocked_rollout_stays_blocked_at_zero_replicas(
    blocked: dict[ModelVersion, VersionState], inputs: Sequence[Any]
) -> None:
    world = asleep_while(blocked, inputs)
    assert world.answers() == "1"
    assert world.blocked.keys() == {"champion"}
    again = World(cold=True, snapshot=world.snapshot)
    for _ in range(2):
        again.reads(champion="2")
        assert again.answers() == "1"
        again.now += 100  # beyond the time in which members may report that have lived through a restart
    again.reads(champion="3")
    assert again.answers() == "3"


def test_at_zero_replicas_force_overrides_inputs_not_a_failure() -> None:
    for blocked, inputs, answers in ((CHANGED, OTHER, "2"), (BROKEN, SAME, "1")):
        world = asleep_while(blocked, inputs)
        world.reads({"serving.force": "2"}, champion="2")
        assert world.answers() == answers


def test_a_version_that_failed_answers_once_it_loads() -> None:
    world = asleep_while(BROKEN)
    world.pool({V1: READY})
    assert {V1, V2} <= world.resident, "it is tried again"
    world.pool({V1: READY, V2: READY})
    assert world.answers() == "2"


def test_a_silent_pool_after_a_restart_is_not_at_zero_replicas() -> None:
    world = World(cold=True)
    world.reads(champion="1")
    world.pool({V1: READY})
    again = World(cold=True, snapshot=world.snapshot)
    again.reads(champion="2")
    assert again.answers() == "1"
    again.pool({V1: READY})
    assert {V1, V2} <= again.resident
    again.pool({V1: READY, V2: FAILED})
    assert again.answers() == "1"


def test_a_rollout_in_an_unconfigured_pool_says_so(world: World) -> None:
    world.reads({"serving.pool": "gpu"}, champion="2")
    reason = "pool 'gpu', where it belongs by its tag serving.pool, is not configured; there are: default"
    assert world.blocked == {"champion": reason}
    assert release_health(world.state, None)["models"]["blocked"] == [f"m@champion stays at version 1: {reason}"]
    world.reads({"serving.pool": "gpu"}, champion="1")
    assert not world.blocked


def test_status_shows_what_an_alias_answers_since_when_and_why(world: World) -> None:
    world.now = 1_764_000_000.25
    world.intend("champion", "2", "it was promoted")
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    assert world.status().live == {
        "champion": {
            "version": "2",
            "previous": "1",
            "since": "2025-11-24T16:00:00.250+00:00",
            "why": "it was promoted",
        }
    }


def test_an_intent_explains_its_own_version_only(world: World) -> None:
    world.intend("champion", "2", "it was promoted")
    world.reads(champion="3")
    world.pool({V1: READY, V3: READY})
    assert world.status().live["champion"]["why"] == "the alias was moved in the registry"


# Restarts


def restarted(world: World, **aliases: str) -> World:
    """Another life, a minute later, which knows the last one from its snapshot."""
    again = World(snapshot=world.snapshot, now=world.now + 60)
    again.reads({}, **aliases)
    return again


def test_a_restart_keeps_the_live_version_and_its_predecessor(world: World) -> None:
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    world.reads(champion="3")
    world.pool({V1: READY, V2: READY, V3: FAILED})
    again = restarted(world, champion="3")
    assert (again.answers(), again.answers("m@champion")) == ("2", "2")
    again.pool({V1: READY, V2: READY, V3: FAILED})
    assert (again.answers(), again.answers("m@champion")) == ("2", "2")
    assert again.state.aliases["m"]["champion"].previous == "1"
    assert again.table.ready


def test_a_snapshot_keeps_no_model_that_is_not_served(world: World) -> None:
    world.pin(V3)
    settings = replace(world.settings, serves=lambda name: name != "m")
    state = decode(world.snapshot, ReleaseState(), Now(0, 0), settings)
    assert (state.aliases, state.observed.models) == ({}, None)
    assert decode(world.snapshot, ReleaseState(), Now(0, 0), world.settings).aliases.keys() == {"m"}


def test_a_snapshot_of_a_later_release_is_read_as_far_as_known(world: World) -> None:
    world.pin(V3)
    snapshot = world.snapshot
    snapshot["more"] = 1
    for part in (*snapshot["models"], *snapshot["live"]["m"].values()):
        part["more"] = {"deep": 1}
    again = World(snapshot=snapshot)
    assert again.answers() == "1"
    assert again.resident == {V1, V3}


@pytest.mark.parametrize(
    "part",
    [
        {"live": {"m": {"champion": {"since": 1.0}}}},
        {"live": []},
        {"models": [{"aliases": {}}]},
        {"models": {"m": 1}},
        {"pinned": [["m"]]},
    ],
    ids=str,
)
def test_an_invalid_snapshot_is_refused(world: World, part: dict[str, Any]) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode({**world.snapshot, **part}, ReleaseState(), Now(0, 0), world.settings)


def test_since_never_goes_back_although_the_clock_was_set_back(world: World) -> None:
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    before = world.state.aliases["m"]["champion"].since
    world.now -= 100
    world.reads(champion="3")
    world.pool({V1: READY, V2: READY, V3: READY})
    assert world.answers() == "3"
    assert world.state.aliases["m"]["champion"].since == before


# The tag serving.live, which is written for people


def test_without_a_snapshot_a_restart_starts_from_the_aliases(world: World) -> None:
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    again = World()
    again.reads({LIVE_TAG: str(world.live_tag)}, champion="3")
    assert (again.answers(), again.answers("m@champion")) == ("3", "3")


def test_the_snapshot_counts_whatever_the_tag_says(world: World) -> None:
    old = world.snapshot
    world.now += 1
    world.reads(champion="2")
    world.pool({V1: READY, V2: READY})
    again = World(snapshot=old)
    again.reads({LIVE_TAG: str(world.live_tag)}, champion="1")
    assert again.answers("m@champion") == "1"


@pytest.mark.parametrize("tag", ["", "no json", "[" * 5000, '{"champion": {"version": "2"}}', "\ud800"])
def test_nobody_can_change_what_answers_through_the_tag(tag: str) -> None:
    world = World()
    world.reads({LIVE_TAG: tag}, champion="1")
    assert world.answers() == "1"
    assert world.status().problems == ()


def test_a_tag_is_written_when_something_was_switched(world: World) -> None:
    world.reads(champion="2")
    assert world.effects.live_tags == {}
    world.pool({V1: READY, V2: READY})
    assert world.effects.live_tags == {"m": world.live_tag}
    assert json.loads(str(world.live_tag))["champion"]["version"] == "2"
    world.reads({"other": "tag"}, champion="2")
    assert world.effects.live_tags == {}


def test_tags_that_a_dead_process_left_out_are_written_after_all(world: World) -> None:
    assert World(snapshot=world.snapshot).effects.live_tags == {"m": world.live_tag}


NESTED = f'{{"%s": {"[" * 1000}{"]" * 1000}}}'


@pytest.mark.parametrize("tag", ["serving.traffic", "serving.rollback"])
@pytest.mark.parametrize("text", ["[" * 5000, NESTED % "champion", NESTED % "error_rate", '{"\\ud800": 100}'])
def test_an_invalid_tag_does_not_stop_the_registry_poll(tag: str, text: str) -> None:
    world = World()
    world.reads({tag: text}, champion="1")
    (problem,) = world.status().problems
    assert problem.startswith(f"tag {tag} is ignored: ")
    problem.encode()


def test_the_live_tag_shows_only_versions_that_were_warm() -> None:
    world = World()
    world.reads(champion="1")
    assert world.live_tag is None
    world.pool({V1: READY})
    assert json.loads(str(world.live_tag)).keys() == {"champion"}


def test_a_model_registered_again_has_no_history(world: World) -> None:
    world.registry(RegisteredModel("m", {"champion": "2"}, {}, "2", 8))
    world.settle()
    assert world.answers() == "2"


def test_readiness_waits_for_rollouts_only_at_the_start(world: World) -> None:
    again = restarted(world, champion="2")
    again.pool({V1: READY})
    started = again.table.ready
    assert not started
    again.pool({V1: READY, V2: READY})
    again.reads(champion="3")
    assert again.table.ready, "a later rollout delays nobody"


# Traffic

SPLIT = {"serving.traffic": '{"champion": 90, "challenger": 10}'}


def test_a_split_is_in_force_once_its_versions_are_warm(world: World) -> None:
    world.reads(SPLIT, champion="1", challenger="2")
    assert V2 in world.resident
    cold = Traffic((Variant("champion", "1", 90), Variant("challenger", "1", 10)))
    assert world.traffic == cold
    world.pool({V1: READY, V2: LOADING})
    assert world.traffic == cold
    world.pool({V1: READY, V2: READY})
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "2", 10)))
    world.pool({V1: READY, V2: FAILED})
    assert world.traffic == cold


def test_a_split_follows_its_aliases_warm(world: World) -> None:
    world.reads(SPLIT, champion="1", challenger="2")
    world.pool({V1: READY, V2: READY})
    world.reads(champion="1", challenger="3")
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "2", 10)))
    world.pool({V1: READY, V2: READY, V3: READY})
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "3", 10)))


def test_a_shadow_gets_copies_once_it_is_warm(world: World) -> None:
    world.reads({"serving.shadow": "challenger"}, champion="1", challenger="2")
    assert world.traffic is None
    world.pool({V1: READY, V2: READY})
    assert world.traffic == Traffic((), Variant("challenger", "2"))


def test_a_missing_alias_leaves_its_share_to_the_default(world: World) -> None:
    world.reads(SPLIT, champion="1")
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "1", 10)))
    assert world.status().problems == (
        "traffic names alias 'challenger', which the model does not have: its share goes to the default",
    )


def test_a_split_survives_a_restart_until_the_pools_report(world: World) -> None:
    world.reads(SPLIT, champion="1", challenger="2")
    world.pool({V1: READY, V2: READY})
    again = World(snapshot=world.snapshot)
    again.now = world.now + 5
    again.settle()
    in_force = Traffic((Variant("champion", "1", 90), Variant("challenger", "2", 10)))
    assert again.traffic == in_force
    again.now += 16
    again.settle()
    assert again.traffic != in_force, "nobody has said for long that version 2 is warm"


@pytest.mark.parametrize("between", [[], None], ids=["seen without it", "never seen without it"])
def test_a_model_inherits_nothing_from_a_deleted_namesake(
    between: list[RegisteredModel] | None,
) -> None:
    world = World()
    world.reads(challenger="1")
    world.pin(V3)  # what the bare name means until there is a default alias
    world.pool({V1: READY, V2: READY, V3: READY}, OTHER, v1=SAME)
    world.reads(challenger="2")
    assert world.blocked
    world.unload(V2)
    world.settle()
    if between is not None:
        world.registry(*between)
        world.settle()
    world.left("r1")
    world.registry(RegisteredModel("m", {"challenger": "1"}, {}, "2", 8))
    world.settle()
    assert world.answers() == "2"
    world.registry(RegisteredModel("m", {"challenger": "2"}, {}, "2", 8))
    world.settle()
    assert {V1, V2} <= world.resident  # to be compared
    world.pool({V1: READY, V2: READY}, SAME)
    assert world.answers("m@challenger") == "2"
