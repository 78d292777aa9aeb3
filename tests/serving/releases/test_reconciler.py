import pytest

from app.serving.batching.limits import BatchOverrides
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.rollout import Contract
from app.serving.releases.status import every_status, status_of

READY = VersionState("ready", None, 100, 5.0)
FAILED = VersionState("failed", "it is broken")
V1, V2, V3 = (ModelVersion("m", number) for number in "123")


def book(*, preload: tuple[str, ...] = ("*",), pools: tuple[str, ...] = ("default",)) -> ReleaseBook:
    b = ReleaseBook(
        default_alias="champion", preload=preload, pools=dict.fromkeys(pools, PoolPlan()), keep_previous_s=0
    )
    for version in (V1, V2, V3):
        b.switches.described(version, Contract(None))
    return b


def registered(latest: str = "2", **aliases: str) -> RegisteredModel:
    return RegisteredModel("m", aliases, {}, latest)


def meaning(book: ReleaseBook, text: str) -> str | None:
    version = book.table.resolve(parse_ref(text))
    return version.version if version is not None else None


def test_the_bare_name_means_the_default_alias_else_the_newest_version() -> None:
    b = book()
    b.registry_read([registered(champion="1"), RegisteredModel("n", {}, {}, "7")])
    assert b.settle(0)
    assert meaning(b, "m") == "1"
    assert meaning(b, "m@champion") == "1"
    assert meaning(b, "n") == "7"
    assert meaning(b, "m@challenger") is None
    assert meaning(b, "unknown") is None


def test_the_table_is_ready_once_what_should_be_resident_is_loaded_or_has_failed() -> None:
    b = book()
    b.settle(0)
    steps: list[tuple[dict[ModelVersion, VersionState] | None, bool]] = [
        (None, False),
        ({V1: VersionState("loading")}, False),
        ({V1: READY}, True),
        ({V1: FAILED}, True),
    ]
    b.registry_read([registered(champion="1")])
    for states, ready in steps:
        if states is not None:
            b.members.reported("r1", "default", states, 1)
        b.settle(1)
        assert b.table.resident == {"default": (V1,)}
        assert b.table.ready is ready


def test_an_empty_registry_is_ready_when_it_has_been_read() -> None:
    b = book()
    b.registry_read([])
    b.settle(0)
    assert b.table.ready


def test_an_epoch_counts_changes_and_only_those() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    assert b.settle(0)
    epoch = b.table.epoch
    b.registry_read([registered(champion="1")])
    assert not b.settle(1)
    assert b.table.epoch == epoch


def test_an_alias_moves_for_callers_only_when_the_new_version_is_warm_everywhere() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.members.reported("r2", "default", {V1: READY}, 0)
    b.settle(0)
    b.registry_read([registered(champion="2")])
    b.settle(1)
    assert meaning(b, "m") == "1"
    assert set(b.table.resident["default"]) == {V1, V2}
    b.members.reported("r1", "default", {V1: READY, V2: READY}, 2)
    b.settle(2)
    assert meaning(b, "m") == "1"
    b.members.reported("r2", "default", {V1: READY, V2: READY}, 3)
    b.settle(3)
    assert meaning(b, "m") == "2"
    assert meaning(b, "m@champion") == "2"
    assert b.table.resident == {"default": (V2,)}


def test_a_version_that_warms_up_later_does_not_make_the_table_unready() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.registry_read([registered(champion="2")])
    b.settle(1)
    assert V2 in b.table.resident["default"]
    assert b.table.ready


def test_an_alias_stays_where_it_is_when_the_new_version_cannot_be_loaded() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.registry_read([registered(champion="2")])
    b.settle(1)
    b.members.reported("r1", "default", {V1: READY, V2: FAILED}, 2)
    b.settle(2)
    assert meaning(b, "m") == "1"
    (status,) = every_status(b)
    assert status.aliases == {"champion": "1"}
    assert status.desired == {"champion": "2"}
    assert status.versions["2"]["error"] == "it is broken"


def test_a_loaded_version_becomes_the_default_only_where_no_default_alias_is_set() -> None:
    b = book()
    b.registry_read([registered(champion="2"), RegisteredModel("n", {}, {}, "7")])
    b.settle(0)
    b.pin(V1)
    b.pin(ModelVersion("n", "3"))
    b.settle(1)
    assert meaning(b, "m") == "2"
    assert meaning(b, "n") == "7"  # until the loaded one is warm
    b.members.reported("r1", "default", {ModelVersion("n", "3"): READY}, 2)
    b.settle(2)
    assert meaning(b, "n") == "3"


def test_what_was_let_go_is_no_longer_resident_until_it_is_loaded_again() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.let_go(V1)
    b.settle(1)
    assert b.table.resident == {"default": ()}
    assert b.table.unloads == {V1: 1}
    assert b.state(V1) is None, "nobody counts on it, though the member has not reported that yet"
    assert b.table.ready
    b.pin(V1)
    b.settle(2)
    assert b.table.resident == {"default": (V1,)}
    b.let_go(V1)
    b.settle(3)
    assert b.table.unloads == {V1: 2}


def test_an_alias_that_names_a_version_that_was_let_go_brings_it_back() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.let_go(V2)
    b.registry_read([registered(champion="2")])
    b.settle(1)
    assert V2 in b.table.resident["default"]
    b.members.reported("r1", "default", {V1: READY, V2: READY}, 2)
    b.settle(2)
    assert meaning(b, "m") == "2"
    assert b.table.resident == {"default": (V2,)}


def test_a_load_that_failed_takes_back_its_pin_and_nothing_else() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.pin(V1)
    b.unpin(V1)
    b.settle(1)
    assert b.table.resident == {"default": (V1,)}
    assert b.table.unloads == {}


def test_pins_of_a_model_that_left_the_registry_are_forgotten() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.pin(V2)
    b.registry_read([])
    b.settle(0)
    assert b.table.resident == {"default": ()}
    assert b.table.ready


def test_a_model_registered_anew_under_its_name_is_told_from_the_old_one() -> None:
    b = book()
    b.registry_read([RegisteredModel("m", {}, {}, "1", created=1), RegisteredModel("n", {}, {}, "1", created=1)])
    b.settle(0)
    before = b.table
    b.registry_read([RegisteredModel("m", {}, {}, "1", created=2), RegisteredModel("n", {}, {}, "1", created=1)])
    b.settle(1)
    assert b.table.renewed(before) == {"m"}


def test_a_pool_that_may_be_empty_does_not_hold_up_readiness() -> None:
    pools = {"default": PoolPlan(), "gpu": PoolPlan(cold=True)}
    b = ReleaseBook(default_alias="champion", preload=("*",), pools=pools)
    b.registry_read([RegisteredModel("m", {"champion": "1"}, {"serving.pool": "gpu"}, "1")])
    b.settle(0)
    assert b.table.ready


def test_asking_for_a_failed_version_again_makes_the_pools_try_again() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V2: FAILED}, 0)
    b.pin(V2)
    b.settle(0)
    assert b.table.retries == {V2: 1}
    assert b.state(V2) is None


def test_a_replica_that_is_not_heard_of_is_forgotten() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.members.reported("r2", "default", {}, 0)
    b.settle(0)
    assert b.state(V1) is None
    assert b.members.holds(V1)
    b.members.heard_of("r1", 80)
    b.settle(100)
    assert b.state(V1) == "ready"


def test_a_model_goes_to_the_pool_that_its_tag_names() -> None:
    b = book(pools=("default", "gpu"))
    b.registry_read([RegisteredModel("m", {"champion": "1"}, {"serving.pool": "gpu"}, "1")])
    b.settle(0)
    assert b.table.pool_of("m") == "gpu"
    assert b.table.resident == {"default": (), "gpu": (V1,)}
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(1)
    assert not b.table.ready


def test_only_what_the_preload_setting_names_is_resident() -> None:
    b = book(preload=("m/versions/2", "m@challenger"))
    b.registry_read([registered(champion="1", challenger="3")])
    b.settle(0)
    assert b.table.resident == {"default": (V2, V3)}


def test_a_model_that_left_the_registry_is_forgotten() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.settle(0)
    b.registry_read([])
    b.settle(1)
    assert meaning(b, "m") is None
    assert every_status(b) == []


def test_a_restart_goes_on_with_what_was_live_and_does_not_need_the_registry() -> None:
    import json

    b = book()
    b.registry_read([registered(champion="1")])
    b.members.reported("r1", "default", {V1: READY}, 0)
    b.settle(0)
    b.registry_read([registered(champion="2")])
    b.members.reported("r1", "default", {V1: READY, V2: FAILED}, 0)
    b.settle(1)
    snapshot = json.loads(json.dumps(b.snapshot()))
    again = book()
    again.restore(snapshot)
    again.settle(0)
    assert meaning(again, "m") == "1"
    again.members.reported("r9", "default", {V1: READY, V2: FAILED}, 1)
    again.settle(1)
    assert again.table.ready
    assert meaning(again, "m") == "1"


def on(b: ReleaseBook, member: str, *versions: ModelVersion) -> None:
    b.members.reported(member, "default", dict.fromkeys(versions, READY), 0)


def test_each_version_is_held_by_its_share_of_the_members_and_ready_when_these_have_it() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    for member in "abcd":
        on(b, member)
    b.settle(0)
    holders = [member for member in "abcd" if V1 in b.table.share("default", member).resident]
    assert (len(holders), b.table.copies_of(V1)) == (2, 2)
    on(b, holders[0], V1)
    assert b.state(V1) is None
    on(b, holders[1], V1)
    b.settle(0)
    assert b.state(V1) == "ready"
    assert b.table.ready


def test_a_members_place_is_taken_over_when_it_leaves() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    for member in "abcd":
        on(b, member, V1)
    b.settle(0)
    gone = next(member for member in "abcd" if V1 in b.table.share("default", member).resident)
    b.members.left(gone)
    b.settle(0)
    holders = [member for member in "abcd" if member != gone and V1 in b.table.share("default", member).resident]
    assert len(holders) == 2
    assert gone not in b.table.members["default"]


def test_a_member_that_is_not_known_yet_counts_itself_in() -> None:
    b = book()
    b.registry_read([registered(champion="1")])
    b.settle(0)
    assert b.table.share("default", "new").resident == {V1}


def test_a_version_that_makes_much_work_gets_more_copies_whoever_asked_for_it() -> None:
    b = book(preload=())
    b.registry_read([registered(champion="1")])
    for member in "abcd":
        on(b, member)
    b.members.worked("a", {V1: 2.5, V2: 0.5, V3: 0.01})
    b.settle(0)
    assert b.table.copies == {V1: 3, V2: 1}
    assert b.table.copies_of(V3) == 1
    shares = [b.table.share("default", member) for member in "abcd"]
    assert [sum(version in share.hot for share in shares) for version in (V1, V2, V3)] == [3, 1, 0]
    assert not any(share.resident for share in shares)


def test_an_alias_moves_at_once_where_its_pool_is_at_zero_replicas() -> None:
    pools = {"default": PoolPlan(cold=True)}
    b = ReleaseBook(default_alias="champion", preload=("*",), pools=pools)
    b.registry_read([registered(champion="1")])
    b.settle(0)
    b.registry_read([registered(champion="2")])
    b.settle(1)
    assert meaning(b, "m") == "2"
    assert status_of(b, "m").versions["2"]["state"] == "cold"
    on(b, "awake", V2)
    b.registry_read([registered(champion="3")])
    b.settle(2)
    assert meaning(b, "m") == "2"


def test_tags_tune_a_models_batches_and_the_table_follows_them() -> None:
    b = book()
    b.registry_read([RegisteredModel("m", {"champion": "1"}, {}, "1")])
    b.settle(0)
    assert b.table.releases["m"].batch == BatchOverrides()
    tags = {"serving.batch.max_rows": "1", "serving.batch.wait_ms": "2.5", "serving.batch.max_in_flight": "3"}
    b.registry_read([RegisteredModel("m", {"champion": "1"}, tags, "1")])
    assert b.settle(1)
    assert b.table.releases["m"].batch == BatchOverrides(max_rows=1, wait_ms=2.5, max_in_flight=3)
    b.registry_read([RegisteredModel("m", {"champion": "1"}, {}, "1")])
    assert b.settle(2)
    assert b.table.releases["m"].batch == BatchOverrides()


def test_a_tag_that_cannot_be_followed_is_ignored_logged_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    b = book()
    tags = {"serving.batch.max_rows": "many", "serving.batch.max_in_flight": "4"}
    for _ in range(2):
        b.registry_read([RegisteredModel("m", {"champion": "1"}, tags, "1")])
        b.settle(0)
    assert b.table.releases["m"].batch == BatchOverrides(max_in_flight=4)
    (problem,) = status_of(b, "m").problems
    assert problem == "tag serving.batch.max_rows is 'many', expected a whole number from 1 on: it is ignored"
    assert [record.getMessage() for record in caplog.records] == [f"model 'm': {problem}"]
