"""Aliases that follow the registry: when they switch, what holds them up, what is kept, and what outlives a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.rollout import Contract
from app.serving.releases.status import release_health, status_of
from app.serving.releases.tags import LIVE_TAG
from app.serving.releases.traffic import Traffic, Variant

READY = VersionState("ready", None, 100, 5.0)
LOADING = VersionState("loading")
FAILED = VersionState("failed", "it is broken")
V1, V2, V3 = (ModelVersion("m", number) for number in "123")
SAME = [{"name": "oil", "type": "double", "required": True}]
OTHER = [*SAME, {"name": "gas", "type": "double", "required": True}]


class World:
    """A book with one pool member, the registry of one model, and a clock."""

    def __init__(
        self, *, keep_previous_s: float = 600.0, snapshot: dict[str, Any] | None = None, cold: bool = False
    ) -> None:
        self.now = 1_000.0
        self.book = ReleaseBook(
            default_alias="champion",
            preload=("*",),
            pools={"default": PoolPlan(cold=cold)},
            keep_previous_s=keep_previous_s,
            wall=lambda: self.now,
        )
        if snapshot is not None:
            self.book.restore(snapshot)
        self.tags: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def registry(self, tags: dict[str, str] | None = None, **aliases: str) -> None:
        """What the registry holds from now on."""
        self.tags = self.tags if tags is None else tags
        self.aliases = aliases
        self.book.registry_read([RegisteredModel("m", aliases, self.tags, "3", 7)])
        self.settle()

    def pool(self, states: dict[ModelVersion, VersionState], inputs: Sequence[Any] | None = SAME, **of: Any) -> None:
        """What the pool holds, and the inputs of what is ready: `inputs`, else those given by ``v1=``."""
        for version, state in states.items():
            if state.state == "ready":
                self.book.switches.described(version, Contract(of.get(f"v{version.version}", inputs)))
        self.book.members.reported("r1", "default", states, self.now)
        self.settle()

    def settle(self) -> None:
        self.book.settle(self.now)

    def answers(self, text: str = "m") -> str | None:
        version = self.book.table.resolve(parse_ref(text))
        return version.version if version is not None else None

    @property
    def resident(self) -> set[ModelVersion]:
        return set(self.book.table.resident["default"])

    @property
    def traffic(self) -> Traffic | None:
        return self.book.table.releases["m"].traffic


@pytest.fixture
def world() -> World:
    """Version 1 is champion, and answers."""
    world = World()
    world.registry(champion="1")
    world.pool({V1: READY})
    return world


def test_the_version_before_a_switch_stays_for_a_while_so_that_a_rollback_is_instant(world: World) -> None:
    world.registry(champion="2")
    world.pool({V1: READY, V2: READY})
    assert world.answers() == "2"
    assert world.resident == {V1, V2}
    world.registry(champion="1")
    assert world.answers() == "1"
    assert world.resident == {V1, V2}
    world.now += 601
    world.settle()
    assert world.resident == {V1}


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_a_version_that_takes_other_inputs_does_not_answer(world: World, alias: str) -> None:
    world.registry(champion="1", challenger="1")
    world.registry(None, **{**world.aliases, alias: "2"})
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    assert world.answers(f"m@{alias}") == "1"
    reason = world.book.table.releases["m"].blocked[alias]
    assert reason.startswith("version 2 takes other inputs than version 1: ")
    assert "'gas'" in reason
    status = status_of(world.book, "m")
    assert status.blocked == {alias: reason}
    assert status.desired[alias] == "2"
    health = release_health(world.book, None)
    assert health["models"] == {"status": "degraded", "blocked": [f"m@{alias} stays at version 1: {reason}"]}


def test_a_tag_forces_one_version_in_spite_of_its_inputs(world: World) -> None:
    world.registry({"serving.force": "3"}, champion="2")
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    assert world.answers() == "1", "the tag names another version"
    world.registry({"serving.force": "2"}, champion="2")
    assert world.answers() == "2"
    assert not world.book.table.releases["m"].blocked


def test_what_versions_take_is_kept_once_where_it_is_the_same(world: World) -> None:
    switches = world.book.switches
    for version in (V1, V2, V3):
        switches.described(version, Contract([dict(spec) for spec in (OTHER if version is V3 else SAME)]))
    first, second, third = (switches._contracts[version] for version in (V1, V2, V3))
    assert first is second
    assert third.inputs == OTHER


def test_what_answered_before_may_come_back_whatever_its_inputs(world: World) -> None:
    world.registry({"serving.force": "2"}, champion="2")
    world.pool({V1: READY, V2: READY}, v2=OTHER)
    world.registry({}, champion="1")
    assert world.answers() == "1"


def test_a_version_that_fails_its_own_example_does_not_answer_unless_forced(world: World) -> None:
    world.registry(champion="2")
    odd = VersionState("ready", None, 100, 5.0, "it does not predict its own input example")
    world.pool({V1: READY, V2: odd})
    assert world.answers() == "1"
    assert world.book.table.releases["m"].blocked == {
        "champion": "version 2 is not switched to: it does not predict its own input example"
    }
    world.registry({"serving.force": "2"}, champion="2")
    assert world.answers() == "2"


def test_a_version_is_compared_with_the_one_that_answers_which_is_loaded_for_that() -> None:
    world = World()
    world.registry(champion="1", challenger="1")
    world.book.members.reported("r1", "default", {V1: READY}, 0)
    world.registry(champion="1", challenger="2")
    assert world.resident == {V1, V2}
    world.pool({V2: READY})
    assert world.answers("m@challenger") == "1", "nobody has said yet what version 1 takes"
    world.pool({V1: READY, V2: READY})
    assert world.answers("m@challenger") == "2"


def test_a_version_that_cannot_be_compared_with_a_broken_one_answers(world: World) -> None:
    fresh = World()
    fresh.registry(champion="1")
    fresh.pool({V1: FAILED})
    fresh.registry(champion="2")
    fresh.pool({V1: FAILED, V2: READY})
    assert fresh.answers() == "2"


def test_a_failed_version_says_why_and_another_one_takes_its_place(world: World) -> None:
    world.registry(champion="2")
    world.pool({V1: READY, V2: FAILED})
    assert world.book.table.releases["m"].blocked == {"champion": "it is broken"}
    assert world.answers() == "1"
    world.registry(champion="3")
    world.pool({V1: READY, V3: READY})
    assert world.answers() == "3"
    assert status_of(world.book, "m").live["champion"]["previous"] == "1"


def asleep_while(held_up: dict[ModelVersion, VersionState], inputs: Sequence[Any] = SAME) -> World:
    """Version 1 answers, version 2 is held up, and the pool goes to zero replicas."""
    world = World(cold=True)
    world.registry(champion="1")
    world.pool({V1: READY})
    world.registry(champion="2")
    world.pool({V1: READY, **held_up}, inputs, v1=SAME)
    assert world.book.blocked("m").keys() == {"champion"}
    world.book.members.left("r1")
    world.settle()
    return world


BROKEN = {V2: FAILED}
CHANGED = {V2: READY}


@pytest.mark.parametrize(("held_up", "inputs"), [(BROKEN, SAME), (CHANGED, OTHER)], ids=["broken", "other inputs"])
def test_what_holds_up_a_switch_holds_it_up_while_the_pool_is_at_zero_replicas(
    held_up: dict[ModelVersion, VersionState], inputs: Sequence[Any]
) -> None:
    world = asleep_while(held_up, inputs)
    assert world.answers() == "1"
    assert world.book.blocked("m").keys() == {"champion"}
    again = World(cold=True, snapshot=json.loads(json.dumps(world.book.snapshot())))
    for _ in range(2):
        again.registry(champion="2")
        assert again.answers() == "1"
        again.now += 100  # beyond the time in which members may report that have lived through a restart
    again.registry(champion="3")
    assert again.answers() == "3"


def test_a_switch_of_a_pool_at_zero_replicas_is_forced_in_spite_of_inputs_but_not_of_a_broken_version() -> None:
    for held_up, inputs, answers in ((CHANGED, OTHER, "2"), (BROKEN, SAME, "1")):
        world = asleep_while(held_up, inputs)
        world.registry({"serving.force": "2"}, champion="2")
        assert world.answers() == answers


def test_what_held_up_a_switch_is_forgotten_once_it_is_loaded_well() -> None:
    world = asleep_while(BROKEN)
    world.pool({V1: READY})
    assert {V1, V2} <= world.resident, "it is tried again"
    world.pool({V1: READY, V2: READY})
    assert world.answers() == "2"


def test_a_restart_does_not_take_a_pool_that_has_not_reported_yet_for_one_at_zero_replicas() -> None:
    world = World(cold=True)
    world.registry(champion="1")
    world.pool({V1: READY})
    again = World(cold=True, snapshot=world.book.snapshot())
    again.registry(champion="2")
    assert again.answers() == "1"
    again.pool({V1: READY})
    assert {V1, V2} <= again.resident
    again.pool({V1: READY, V2: FAILED})
    assert again.answers() == "1"


def test_a_switch_in_a_pool_that_is_not_configured_says_so(world: World) -> None:
    world.registry({"serving.pool": "gpu"}, champion="2")
    told = "pool 'gpu', where it belongs by its tag serving.pool, is not configured; there are: default"
    assert world.book.blocked("m") == {"champion": told}
    assert release_health(world.book, None)["models"]["blocked"] == [f"m@champion stays at version 1: {told}"]
    world.registry({"serving.pool": "gpu"}, champion="1")
    assert not world.book.blocked("m")


def test_an_alias_tells_what_it_answers_since_when_and_why(world: World) -> None:
    world.now = 1_764_000_000.25
    world.book.switches.explain("m", "champion", "2", "it was promoted")
    world.registry(champion="2")
    world.pool({V1: READY, V2: READY})
    assert status_of(world.book, "m").live == {
        "champion": {
            "version": "2",
            "previous": "1",
            "since": "2025-11-24T16:00:00.250+00:00",
            "why": "it was promoted",
        }
    }


def test_a_reason_holds_for_the_version_that_it_was_given_for(world: World) -> None:
    world.book.switches.explain("m", "champion", "2", "it was promoted")
    world.registry(champion="3")
    world.pool({V1: READY, V3: READY})
    assert status_of(world.book, "m").live["champion"]["why"] == "the alias was moved in the registry"


# Restarts


def restarted(world: World, *, with_snapshot: bool, with_tag: bool, **aliases: str) -> World:
    """Another life, which knows the last one from its snapshot, or from the registry's tag."""
    snapshot = json.loads(json.dumps(world.book.snapshot())) if with_snapshot else None
    tag = world.book.live.tag("m", "champion")
    again = World(snapshot=snapshot)
    again.now = world.now + 60
    again.registry({LIVE_TAG: tag} if with_tag and tag else {}, **aliases)
    return again


@pytest.mark.parametrize(("with_snapshot", "with_tag"), [(True, False), (False, True), (True, True)])
def test_a_restart_goes_on_with_the_version_that_answered_and_with_its_predecessor(
    world: World, with_snapshot: bool, with_tag: bool
) -> None:
    world.registry(champion="2")
    world.pool({V1: READY, V2: READY})
    world.registry(champion="3")
    world.pool({V1: READY, V2: READY, V3: FAILED})
    again = restarted(world, with_snapshot=with_snapshot, with_tag=with_tag, champion="3")
    assert (again.answers(), again.answers("m@champion")) == ("2", "2")
    again.pool({V1: READY, V2: READY, V3: FAILED})
    assert (again.answers(), again.answers("m@champion")) == ("2", "2")
    assert again.book.live.of("m")["champion"].previous == "1"
    assert again.book.table.ready


def test_a_snapshot_of_a_later_release_is_understood_as_far_as_it_says_the_same(world: World) -> None:
    world.book.pin(V3)
    snapshot = json.loads(json.dumps(world.book.snapshot()))
    snapshot["more"] = 1
    for part in (*snapshot["models"], *snapshot["live"]["m"].values()):
        part["more"] = {"deep": 1}
    again = World(snapshot=snapshot)
    again.settle()
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
def test_of_a_snapshot_that_is_not_understood_nothing_is_taken_over(world: World, part: dict[str, Any]) -> None:
    snapshot = {**json.loads(json.dumps(world.book.snapshot())), **part}
    again = World()
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        again.book.restore(snapshot)
    assert again.book.snapshot() == World().book.snapshot()


def test_without_either_memory_the_registry_is_all_there_is(world: World) -> None:
    again = restarted(world, with_snapshot=False, with_tag=False, champion="3")
    assert again.answers() == "3"


def test_the_later_of_snapshot_and_tag_counts(world: World) -> None:
    world.registry(champion="2")
    world.now += 1
    world.pool({V1: READY, V2: READY})
    old = json.loads(json.dumps(world.book.snapshot()))
    world.now += 1
    world.registry(champion="3")
    world.pool({V1: READY, V2: READY, V3: READY})
    again = World(snapshot=old)
    again.registry({LIVE_TAG: str(world.book.live.tag("m", "champion"))}, champion="1")
    assert again.answers("m@champion") == "3"


def test_the_later_switch_counts_though_the_clock_was_put_back_before_it(world: World) -> None:
    world.registry(champion="2")
    world.pool({V1: READY, V2: READY})
    tag = {LIVE_TAG: str(world.book.live.tag("m", "champion"))}
    world.now -= 100
    world.registry(champion="3")
    world.pool({V1: READY, V2: READY, V3: READY})
    again = World(snapshot=world.book.snapshot())
    again.registry(tag, champion="1")
    assert again.answers() == "3"


def told(version: str = "2", since: str = "2026-01-01T00:00:00Z", **more: str) -> str:
    """A tag of which each part can be wrong."""
    return json.dumps({"champion": {"version": version, "since": since, **more}})


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "no json",
        "[]",
        '"x"',
        '{"champion": 1}',
        '{"champion": {"version": 2}}',
        "{}",
        "[" * 5000,
        told("two"),
        told(previous="one"),
        told(since="yesterday"),
        told(since="0001-01-01T00:00:00+14:00"),
        told(since="9999-12-31T23:59:59-14:00"),
        told(why="\ud800"),
    ],
)
def test_a_tag_that_somebody_else_wrote_is_no_tag(tag: str) -> None:
    world = World()
    world.registry({LIVE_TAG: tag}, champion="1")
    assert world.answers() == "1"
    assert status_of(world.book, "m").default == "1"
    orjson.dumps(world.book.snapshot())


def test_a_tag_that_can_be_understood_is_taken_over() -> None:
    world = World()
    world.registry({LIVE_TAG: told(previous="3", why="it was promoted")}, champion="1")
    assert world.answers() == "2"


NESTED = f'{{"%s": {"[" * 1000}{"]" * 1000}}}'


@pytest.mark.parametrize("tag", ["serving.traffic", "serving.rollback"])
@pytest.mark.parametrize("text", ["[" * 5000, NESTED % "champion", NESTED % "error_rate", '{"\\ud800": 100}'])
def test_no_tag_keeps_the_registry_from_being_read(tag: str, text: str) -> None:
    world = World()
    world.registry({tag: text}, champion="1")
    (problem,) = status_of(world.book, "m").problems
    assert problem.startswith(f"tag {tag} is ignored: ")
    problem.encode()


def test_the_tag_tells_only_of_versions_that_were_warm() -> None:
    world = World()
    world.registry(champion="1")
    assert world.book.live.tag("m", "champion") is None
    world.pool({V1: READY})
    assert json.loads(str(world.book.live.tag("m", "champion"))).keys() == {"champion"}


def test_a_name_that_is_registered_anew_starts_anew(world: World) -> None:
    world.book.registry_read([RegisteredModel("m", {"champion": "2"}, {}, "2", 8)])
    world.settle()
    assert world.answers() == "2"


def test_the_start_is_over_when_a_switch_that_was_under_way_is(world: World) -> None:
    again = restarted(world, with_snapshot=True, with_tag=False, champion="2")
    again.pool({V1: READY})
    started = again.book.table.ready
    assert not started
    again.pool({V1: READY, V2: READY})
    again.registry(champion="3")
    assert again.book.table.ready, "a later switch holds up nobody"


# Traffic

SPLIT = {"serving.traffic": '{"champion": 90, "challenger": 10}'}


def test_a_split_is_in_force_once_its_versions_are_warm(world: World) -> None:
    world.registry(SPLIT, champion="1", challenger="2")
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
    world.registry(SPLIT, champion="1", challenger="2")
    world.pool({V1: READY, V2: READY})
    world.registry(champion="1", challenger="3")
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "2", 10)))
    world.pool({V1: READY, V2: READY, V3: READY})
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "3", 10)))


def test_a_shadow_gets_copies_once_it_is_warm(world: World) -> None:
    world.registry({"serving.shadow": "challenger"}, champion="1", challenger="2")
    assert world.traffic is None
    world.pool({V1: READY, V2: READY})
    assert world.traffic == Traffic((), Variant("challenger", "2"))


def test_an_alias_that_does_not_exist_leaves_its_share_to_the_default_and_is_told(world: World) -> None:
    world.registry(SPLIT, champion="1")
    assert world.traffic == Traffic((Variant("champion", "1", 90), Variant("challenger", "1", 10)))
    assert status_of(world.book, "m").problems == (
        "traffic names alias 'challenger', which the model does not have: its share goes to the default",
    )


def test_a_split_survives_a_restart_while_the_pools_have_not_reported_yet(world: World) -> None:
    world.registry(SPLIT, champion="1", challenger="2")
    world.pool({V1: READY, V2: READY})
    again = World(snapshot=json.loads(json.dumps(world.book.snapshot())))
    again.now = world.now + 5
    again.settle()
    in_force = Traffic((Variant("champion", "1", 90), Variant("challenger", "2", 10)))
    assert again.traffic == in_force
    again.now += 16
    again.settle()
    assert again.traffic != in_force, "nobody has said for long that version 2 is warm"


@pytest.mark.parametrize("between", [[], None], ids=["seen without it", "never seen without it"])
def test_nothing_of_a_deleted_model_is_remembered_of_the_one_that_takes_its_name(
    between: list[RegisteredModel] | None,
) -> None:
    world = World()
    world.registry(challenger="1")
    world.book.pin(V3)  # what the bare name means until there is a default alias
    world.pool({V1: READY, V2: READY, V3: READY}, OTHER, v1=SAME)
    world.registry(challenger="2")
    assert world.book.blocked("m")
    world.book.let_go(V2)
    world.settle()
    if between is not None:
        world.book.registry_read(between)
        world.settle()
    world.book.members.left("r1")
    world.book.registry_read([RegisteredModel("m", {"challenger": "1"}, {}, "2", 8)])
    world.settle()
    assert world.answers() == "2"
    world.book.registry_read([RegisteredModel("m", {"challenger": "2"}, {}, "2", 8)])
    world.settle()
    assert {V1, V2} <= world.resident  # to be compared
    world.pool({V1: READY, V2: READY}, SAME)
    assert world.answers("m@challenger") == "2"
