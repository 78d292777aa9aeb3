"""The release table: what answers, what is resident and where, and when it is ready."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.serving.batching.limits import BatchOverrides
from app.serving.batching_contract import BatchingContract
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.status import every_status
from tests.serving.releases.engine import FAILED, LOADING, READY, V1, V2, V3, Engine


def engine(*, preload: tuple[str, ...] = ("*",), pools: tuple[str, ...] = ("default",)) -> Engine:
    return Engine(preload=preload, pools=dict.fromkeys(pools, PoolPlan()), keep_previous_s=0, now=0.0)


def registered(latest: str = "2", **aliases: str) -> RegisteredModel:
    return RegisteredModel("m", aliases, {}, latest)


def test_the_bare_name_means_the_default_alias_else_the_newest() -> None:
    e = engine()
    assert e.registry(registered(champion="1"), RegisteredModel("n", {}, {}, "7"))
    assert e.answers("m") == "1"
    assert e.answers("m@champion") == "1"
    assert e.answers("n") == "7"
    assert e.answers("m@challenger") is None
    assert e.answers("unknown") is None


def test_ready_means_every_resident_version_is_loaded_or_failed() -> None:
    e = engine()
    steps: list[tuple[dict[ModelVersion, VersionState] | None, bool]] = [
        (None, False),
        ({V1: VersionState("loading")}, False),
        ({V1: READY}, True),
        ({V1: FAILED}, True),
    ]
    e.registry(registered(champion="1"))
    for states, ready in steps:
        if states is not None:
            e.report("r1", states)
        assert e.table.resident == {"default": (V1,)}
        assert e.table.ready is ready


def test_an_empty_registry_is_ready_once_it_was_read() -> None:
    e = engine()
    e.registry()
    assert e.table.ready


def test_the_epoch_counts_changes_and_nothing_else() -> None:
    e = engine()
    assert e.registry(registered(champion="1"))
    epoch = e.table.epoch
    assert not e.registry(registered(champion="1"))
    assert not e.settle()
    assert e.table.epoch == epoch


def test_an_alias_switches_once_the_version_is_warm_everywhere() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.report("r2", {V1: READY})
    e.registry(registered(champion="2"))
    assert e.answers("m") == "1"
    assert set(e.table.resident["default"]) == {V1, V2}
    e.report("r1", {V1: READY, V2: READY})
    assert e.answers("m") == "1"
    e.report("r2", {V1: READY, V2: READY})
    assert e.answers("m") == "2"
    assert e.answers("m@champion") == "2"
    assert e.table.resident == {"default": (V2,)}


def test_a_later_rollout_leaves_the_table_ready() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.registry(registered(champion="2"))
    assert V2 in e.table.resident["default"]
    assert e.table.ready


def test_an_alias_stays_when_the_new_version_fails_to_load() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.registry(registered(champion="2"))
    e.report("r1", {V1: READY, V2: FAILED})
    assert e.answers("m") == "1"
    (status,) = every_status(e.state, "champion")
    assert status.aliases == {"champion": "1"}
    assert status.desired == {"champion": "2"}
    assert status.versions["2"]["error"] == "it is broken"


def test_a_loaded_version_changes_what_no_name_means() -> None:
    e = engine()
    e.registry(registered(champion="2"), RegisteredModel("n", {}, {}, "7"))
    e.pin(V1)
    e.pin(ModelVersion("n", "3"))
    assert e.answers("m") == "2"
    e.report("r1", {ModelVersion("n", "3"): READY})
    assert e.answers("n") == "7"


def test_a_report_from_before_an_unload_does_not_count() -> None:
    """Or an alias would switch to a version that its pool is about to drop, and callers would wait for the load."""
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY, V2: READY})
    e.unload(V2)
    e.registry(registered(champion="2"))
    e.report("r1", {V1: READY, V2: READY}, orders={})
    assert e.state_of(V2) is None
    assert e.answers() == "1"
    e.report("r1", {V1: READY}, orders={V2: 1})
    e.report("r1", {V1: READY, V2: READY}, orders={V2: 1})
    assert e.answers() == "2"


def test_no_alias_switches_before_members_report_after_a_restart() -> None:
    """Or it would switch to a version that only the first member that reports has loaded."""
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.report("r2", {V1: READY})
    e.registry(registered(champion="2"))
    e.report("r1", {V1: READY, V2: READY})
    again = Engine(snapshot=e.snapshot, now=e.now)
    again.report("r1", {V1: READY, V2: READY})
    assert again.answers() == "1"
    again.report("r2", {V1: READY})
    again.now += again.settings.reunion_s
    again.settle()
    assert again.answers() == "1"
    again.report("r2", {V1: READY, V2: READY})
    assert again.answers() == "2"


def test_a_failure_from_before_a_retry_does_not_count() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY, V2: FAILED})
    e.pin(V2)
    e.report("r1", {V1: READY, V2: FAILED}, orders={})
    assert e.state_of(V2) is None
    e.report("r1", {V1: READY, V2: FAILED}, orders={V2: 1})
    assert e.state_of(V2) == "failed"


def test_an_unloaded_version_is_not_resident_until_loaded_again() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.unload(V1)
    assert e.table.resident == {"default": ()}
    assert e.table.unloads == {V1: 1}
    assert e.state_of(V1) is None, "nobody counts on it, though the member has not reported that yet"
    assert e.table.ready
    e.pin(V1)
    assert e.table.resident == {"default": (V1,)}
    e.unload(V1)
    assert e.table.unloads == {V1: 2}


def test_an_alias_that_names_an_unloaded_version_loads_it_again() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.unload(V2)
    e.registry(registered(champion="2"))
    assert V2 in e.table.resident["default"]
    e.report("r1", {V1: READY, V2: READY})
    assert e.answers("m") == "2"
    assert e.table.resident == {"default": (V2,)}


def test_an_unpinned_version_stays_where_an_alias_needs_it() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.pin(V1)
    e.unpin(V1)
    assert e.table.resident == {"default": (V1,)}
    assert e.table.unloads == {}


def test_pins_of_a_deleted_model_are_forgotten() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.pin(V2)
    e.registry()
    assert e.table.resident == {"default": ()}
    assert e.table.ready


def test_a_model_registered_again_is_another_model() -> None:
    e = engine()
    e.registry(RegisteredModel("m", {}, {}, "1", created=1), RegisteredModel("n", {}, {}, "1", created=1))
    before = e.table
    e.registry(RegisteredModel("m", {}, {}, "1", created=2), RegisteredModel("n", {}, {}, "1", created=1))
    assert e.table.renewed(before) == {"m"}


def test_a_pool_that_scales_to_zero_does_not_delay_readiness() -> None:
    pools = {"default": PoolPlan(), "gpu": PoolPlan(cold=True)}
    e = Engine(pools=pools)
    e.registry(RegisteredModel("m", {"champion": "1"}, {"serving.pool": "gpu"}, "1"))
    assert e.table.ready


def test_a_load_request_for_a_failed_version_retries_it() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V2: FAILED})
    e.pin(V2)
    assert e.table.retries == {V2: 1}
    assert e.state_of(V2) is None


def test_a_silent_member_is_forgotten() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.report("r2", {})
    assert e.state_of(V1) is None
    assert e.state.members.holds(V1)
    e.now = 80
    e.observe(lambda observed: observed.heard_of("r1", 80))
    e.now = 100
    e.settle()
    assert e.state_of(V1) == "ready"


def test_a_model_goes_to_the_pool_that_its_tag_names() -> None:
    e = engine(pools=("default", "gpu"))
    e.registry(RegisteredModel("m", {"champion": "1"}, {"serving.pool": "gpu"}, "1"))
    assert e.table.pool_of("m") == "gpu"
    assert e.table.resident == {"default": (), "gpu": (V1,)}
    e.report("r1", {V1: READY})
    assert not e.table.ready


def test_only_what_the_preload_setting_names_is_resident() -> None:
    e = engine(preload=("m/versions/2", "m@challenger"))
    e.registry(registered(champion="1", challenger="3"))
    assert e.table.resident == {"default": (V2, V3)}


def test_a_deleted_model_is_forgotten() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.registry()
    assert e.answers("m") is None
    assert every_status(e.state, "champion") == []


def test_a_restart_without_a_registry_uses_the_snapshot() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: READY})
    e.registry(registered(champion="2"))
    e.report("r1", {V1: READY, V2: FAILED})
    again = Engine(snapshot=e.snapshot)
    assert again.answers() == "1"
    again.report("r9", {V1: READY, V2: FAILED})
    assert again.table.ready
    assert again.answers() == "1"


def on(e: Engine, member: str, *versions: ModelVersion) -> None:
    e.report(member, dict.fromkeys(versions, READY))


def holders_of(e: Engine) -> list[str]:
    """Return the members that should hold the version, those that hold it first."""
    held = [member for member in "abcd" if V1 in e.table.share("default", member).resident]
    return sorted(held, key=lambda member: V1 not in e.state.observed.members[member].states)


@pytest.mark.parametrize("begun", [True, False])
def test_a_version_whose_load_killed_a_member_is_a_suspect(begun: bool) -> None:
    e = engine()
    e.registry(registered(champion="1"))
    for member in "abcd":
        on(e, member)
    (first,) = holders_of(e)
    e.report(first, {V1: replace(LOADING, begun=begun)})
    e.died(first)
    assert e.table.suspects == ({V1} if begun else set())
    e.unload(V1)
    assert e.table.suspects == set()


def test_a_silent_member_has_died() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("a", {V1: replace(LOADING, begun=True)})
    e.now += e.settings.member_ttl_s + 1
    e.settle()
    assert e.table.suspects == {V1}
    e.registry()
    assert e.table.suspects == set()


def test_a_member_that_leaves_leaves_no_suspects() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    e.report("a", {V1: replace(LOADING, begun=True)})
    e.left("a")
    assert e.table.suspects == set()


def test_a_version_is_ready_once_its_share_of_members_holds_it() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    for member in "abcd":
        on(e, member)
    assert [holders_of(e), e.table.copies_of(V1)] == [holders_of(e)[:1], 1]
    on(e, holders_of(e)[0], V1)
    assert (len(holders_of(e)), e.table.copies_of(V1)) == (2, 2)
    assert e.state_of(V1) is None
    on(e, holders_of(e)[1], V1)
    assert e.state_of(V1) == "ready"
    assert e.table.ready


def test_another_member_takes_over_from_one_that_leaves() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    for member in "abcd":
        on(e, member, V1)
    gone = next(member for member in "abcd" if V1 in e.table.share("default", member).resident)
    e.left(gone)
    holders = [member for member in "abcd" if member != gone and V1 in e.table.share("default", member).resident]
    assert len(holders) == 2
    assert gone not in e.table.members["default"]


def test_an_unknown_member_counts_itself_in() -> None:
    e = engine()
    e.registry(registered(champion="1"))
    assert e.table.share("default", "new").resident == {V1}


def test_a_busy_version_gets_more_copies_resident_or_not() -> None:
    e = engine(preload=())
    e.registry(registered(champion="1"))
    for member in "abcd":
        on(e, member)
    e.observe(lambda observed: observed.heard_of("a", 0, {V1: 2.5, V2: 0.5, V3: 0.01}))
    assert e.table.copies == {V1: 3, V2: 1}
    assert e.table.copies_of(V3) == 1
    shares = [e.table.share("default", member) for member in "abcd"]
    assert [sum(version in share.hot for share in shares) for version in (V1, V2, V3)] == [3, 1, 0]
    assert not any(share.resident for share in shares)


def test_an_alias_switches_at_once_while_its_pool_is_at_zero() -> None:
    pools = {"default": PoolPlan(cold=True)}
    e = Engine(pools=pools)
    e.registry(registered(champion="1"))
    e.registry(registered(champion="2"))
    assert e.answers("m") == "2"
    assert e.status().versions["2"]["state"] == "cold"
    on(e, "awake", V2)
    e.registry(registered(champion="3"))
    assert e.answers("m") == "2"


def test_the_table_follows_the_batch_tags_of_a_model() -> None:
    e = engine()
    e.registry(RegisteredModel("m", {"champion": "1"}, {}, "1"))
    assert e.table.releases["m"].batch == BatchOverrides()
    tags = {"serving.batch.max_rows": "1", "serving.batch.wait_ms": "2.5", "serving.batch.max_in_flight": "3"}
    assert e.registry(RegisteredModel("m", {"champion": "1"}, tags, "1"))
    assert e.table.releases["m"].batch == BatchOverrides(max_rows=1, wait_ms=2.5, max_in_flight=3)
    assert e.registry(RegisteredModel("m", {"champion": "1"}, {}, "1"))
    assert e.table.releases["m"].batch == BatchOverrides()


def test_an_invalid_tag_is_ignored_logged_once_and_shown() -> None:
    e = engine()
    tags = {"serving.batch.max_rows": "many", "serving.batch.max_in_flight": "4"}
    for _ in range(2):
        e.registry(RegisteredModel("m", {"champion": "1"}, tags, "1"))
    assert e.table.releases["m"].batch == BatchOverrides(max_in_flight=4)
    (problem,) = e.status().problems
    assert problem == "tag serving.batch.max_rows is 'many', expected a whole number from 1 on: it is ignored"
    assert e.problems == [("m", problem)]


def proven() -> Engine:
    """An engine whose model has proven to be row-wise."""
    e = engine()
    e.registry(registered(champion="1"))
    e.report("r1", {V1: VersionState("ready", batching=BatchingContract(True, "proven"))})
    return e


def test_the_status_shows_the_batching_contract() -> None:
    e = proven()
    assert e.status().versions["1"]["batching"] == {"row_wise": True, "basis": "proven", "reason": None}
    e.report("r1", {})
    assert e.status().versions["1"]["batching"] is None


def test_a_contradiction_reaches_the_gateways_and_the_status() -> None:
    e = proven()
    epoch = e.table.epoch
    assert e.observe(lambda observed: observed.contradicted(V1, "3 items for 1 row"))
    assert e.table.contradictions == {V1: "3 items for 1 row"}
    assert e.table.epoch > epoch
    assert e.effects.save
    found = e.status().versions["1"]["batching"]
    assert found == {"row_wise": False, "basis": "contradicted", "reason": "3 items for 1 row"}
    assert e.status().problems == ("version 1 is not row-wise, so it is not batched: 3 items for 1 row",)
    assert not e.observe(lambda observed: observed.contradicted(V1, "another one"))


def test_the_tag_wins_in_the_status() -> None:
    e = proven()
    e.observe(lambda observed: observed.contradicted(V1, "3 items for 1 row"))
    e.registry(RegisteredModel("m", {"champion": "1"}, {"serving.batch.row_wise": "true"}, "1"))
    assert e.status().versions["1"]["batching"] == {"row_wise": True, "basis": "declared", "reason": None}
    (problem,) = e.status().problems
    assert "although its tag serving.batch.row_wise is true" in problem
    e.registry(RegisteredModel("m", {"champion": "1"}, {"serving.batch.row_wise": "false"}, "1"))
    assert e.status().versions["1"]["batching"]["row_wise"] is False


def test_a_contradiction_lives_as_long_as_its_model() -> None:
    e = proven()
    e.observe(lambda observed: observed.contradicted(V1, "3 items for 1 row"))
    again = Engine(snapshot=e.snapshot, now=e.now)
    assert again.table.contradictions == {V1: "3 items for 1 row"}
    again.registry(RegisteredModel("m", {"champion": "1"}, {}, "1", created=99))
    assert again.table.contradictions == {}
    again.observe(lambda observed: observed.contradicted(ModelVersion("unknown", "1"), "late"))
    assert again.table.contradictions == {}
