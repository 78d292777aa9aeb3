"""`reconcile` over every phase of an alias and every event, one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.serving.placement.pool_members import PoolPlan
from app.serving.releases.alias_state import PROMOTED
from app.serving.releases.observed import Contract
from app.serving.releases.registered_model import RegisteredModel
from tests.serving.releases.engine import FAILED, LOADING, READY, V1, V2, V3, Engine

OIL = {"name": "oil", "type": "double", "required": True}
GAS = {"name": "gas", "type": "double", "required": True}
LESS, MORE = Contract([OIL]), Contract([OIL, GAS])


def registered(tags: dict[str, str] | None = None, created: int = 1, **aliases: str) -> RegisteredModel:
    return RegisteredModel("m", aliases, tags or {}, "3", created)


def idle() -> Engine:
    """Version 1 answers, and no member holds it yet."""
    engine = Engine(pools={"default": PoolPlan(cold=True)})
    engine.report("r1", {})
    engine.registry(registered(champion="1"))
    return engine


def live() -> Engine:
    """Version 1 answers."""
    engine = idle()
    engine.report("r1", {V1: READY}, {V1: LESS})
    return engine


def warming() -> Engine:
    """Version 1 answers, and version 2 is loading."""
    engine = live()
    engine.registry(registered(champion="2"))
    engine.report("r1", {V1: READY, V2: LOADING}, {})
    return engine


def broken() -> Engine:
    """Version 1 answers, and version 2 failed to load."""
    engine = warming()
    engine.report("r1", {V1: READY, V2: FAILED}, {})
    return engine


def incompatible() -> Engine:
    """Version 1 answers, and version 2 takes other inputs."""
    engine = warming()
    engine.report("r1", {V1: READY, V2: READY}, {V2: MORE})
    return engine


def _alias_moved_to_3(engine: Engine) -> None:
    engine.registry(registered(champion="3"))


def _alias_moved_to_2(engine: Engine) -> None:
    engine.registry(registered(champion="2"))


def _alias_moved_back(engine: Engine) -> None:
    engine.registry(registered(champion="1"))


def _alias_deleted(engine: Engine) -> None:
    engine.registry(registered())


def _load_fails(engine: Engine) -> None:
    engine.report("r1", {V1: READY, V2: FAILED}, {})


def _load_succeeds(engine: Engine) -> None:
    engine.report("r1", {V1: READY, V2: READY}, {V2: LESS} if V2 not in engine.state.observed.contracts else {})


def _load_finds_a_problem(engine: Engine) -> None:
    engine.report("r1", {V1: READY, V2: replace(READY, problem="it fails its own example")}, {V2: LESS})


def _member_evicts_all(engine: Engine) -> None:
    engine.report("r1", {})


def _member_joins(engine: Engine) -> None:
    engine.report("r2", {})


def _member_dies(engine: Engine) -> None:
    """The pool is at zero replicas now."""
    engine.left("r1")


def _member_falls_silent(engine: Engine) -> None:
    engine.now += 26
    engine.settle()


def _restart(engine: Engine) -> None:
    engine.state = Engine(snapshot=engine.snapshot, pools=engine.settings.pools, now=engine.now).state


def _registry_read_again(engine: Engine) -> None:
    engine.registry(*engine.state.models.values())


def _registry_fails(engine: Engine) -> None:
    engine.observe(lambda observed: replace(observed, stale_since=engine.now))


def _load_requested(engine: Engine) -> None:
    engine.pin(V2)


def _version_2_unloaded(engine: Engine) -> None:
    engine.unload(V2)


def _version_1_unloaded(engine: Engine) -> None:
    engine.unload(V1)


def _version_2_forced(engine: Engine) -> None:
    engine.registry(registered({"serving.force": "2"}, champion=engine.state.models["m"].aliases["champion"]))


def _promoted_2(engine: Engine) -> None:
    engine.intend("champion", "2", PROMOTED)
    engine.registry(registered(champion="2"))


def _called_off(engine: Engine) -> None:
    engine.intend("champion", "1", "it was called off", back=True)
    engine.registry(registered(champion="1"))


def _pool_unconfigured(engine: Engine) -> None:
    engine.registry(registered({"serving.pool": "gpu"}, champion=engine.state.models["m"].aliases["champion"]))


def _model_deleted(engine: Engine) -> None:
    engine.registry()


def _model_registered_again(engine: Engine) -> None:
    engine.registry(registered(created=2, champion="3"))


PHASES: tuple[Callable[[], Engine], ...] = (idle, live, warming, broken, incompatible)
# Per event and phase: the live version, the phase afterwards, and the refusal that is remembered.
EVENTS: dict[Callable[[Engine], None], tuple[str, ...]] = {
    _alias_moved_to_3: ("1 warming", "1 warming", "1 warming", "1 warming", "1 warming"),
    _alias_moved_to_2: ("1 warming", "1 warming", "1 warming", "1 blocked broken", "1 blocked incompatible"),
    _alias_moved_back: ("1 idle", "1 live", "1 live", "1 live", "1 live"),
    _alias_deleted: ("none", "none", "none", "none", "none"),
    _load_fails: ("1 live", "1 live", "1 blocked broken", "1 blocked broken", "1 blocked broken"),
    _load_succeeds: ("1 live", "1 live", "2 live", "2 live", "1 blocked incompatible"),
    _load_finds_a_problem: (
        "1 live",
        "1 live",
        "1 blocked incompatible",
        "1 blocked incompatible",
        "1 blocked incompatible",
    ),
    _member_evicts_all: ("1 idle", "1 idle", "1 warming", "1 warming broken", "1 warming incompatible"),
    _member_joins: ("1 idle", "1 live", "1 warming", "1 blocked broken", "1 warming incompatible"),
    _member_dies: ("1 idle", "1 idle", "2 idle", "1 blocked broken", "1 blocked incompatible"),
    _member_falls_silent: ("1 idle", "1 idle", "2 idle", "1 blocked broken", "1 blocked incompatible"),
    _restart: ("1 idle", "1 idle", "1 warming", "1 warming broken", "1 warming incompatible"),
    _registry_read_again: ("1 idle", "1 live", "1 warming", "1 blocked broken", "1 blocked incompatible"),
    _registry_fails: ("1 idle", "1 live", "1 warming", "1 blocked broken", "1 blocked incompatible"),
    _load_requested: ("1 idle", "1 live", "1 warming", "1 warming broken", "1 blocked incompatible"),
    _version_2_unloaded: ("1 idle", "1 live", "1 warming", "1 warming broken", "1 warming incompatible"),
    _version_1_unloaded: ("1 idle", "1 idle", "1 warming", "1 blocked broken", "1 blocked incompatible"),
    _version_2_forced: ("1 idle", "1 live", "1 warming", "1 blocked broken", "2 live"),
    _promoted_2: ("1 warming", "1 warming", "1 warming", "1 blocked broken", "1 blocked incompatible"),
    _called_off: ("1 idle", "1 live", "1 live", "1 live", "1 live"),
    _pool_unconfigured: ("1 idle", "1 idle", "1 warming", "1 warming broken", "1 warming incompatible"),
    _model_deleted: ("none", "none", "none", "none", "none"),
    _model_registered_again: ("3 idle", "3 idle", "3 idle", "3 idle", "3 idle"),
}
CASES = [
    pytest.param(phase, event, expected, id=f"{phase.__name__}-{event.__name__[1:]}")
    for event, outcomes in EVENTS.items()
    for phase, expected in zip(PHASES, outcomes, strict=True)
]


def outcome(engine: Engine) -> str:
    state = engine.state.alias("m", "champion")
    return " ".join(filter(None, [state.live, state.phase, state.refusal])) if state is not None else "none"


def test_each_phase_is_what_its_name_says() -> None:
    found = [outcome(phase()) for phase in PHASES]
    assert found == ["1 idle", "1 live", "1 warming", "1 blocked broken", "1 blocked incompatible"]


@pytest.mark.parametrize(("phase", "event", "expected"), CASES)
def test_every_event_in_every_phase(
    phase: Callable[[], Engine], event: Callable[[Engine], None], expected: str
) -> None:
    engine = phase()
    event(engine)
    assert outcome(engine) == expected


@pytest.mark.parametrize(("phase", "event", "expected"), CASES)
def test_what_holds_after_every_event(
    phase: Callable[[], Engine], event: Callable[[Engine], None], expected: str
) -> None:
    engine = phase()
    before = engine.state.alias("m", "champion")
    assert before is not None
    event(engine)
    settled = engine.state
    assert not engine.settle(), "a second pass changes nothing"
    assert engine.state.aliases == settled.aliases
    after = settled.alias("m", "champion")
    if after is None:
        return
    assert (after.reason is not None) == (after.refusal is not None)
    if settled.models["m"].created == 1 and after.live != before.live:
        assert (after.previous, after.live) == (before.live, after.desired)
    in_rollout = after.live != after.desired
    assert in_rollout == (after.phase in ("warming", "blocked"))
    if in_rollout and settled.table.members["default"] and settled.tags_of("m").pool == "default":
        assert V1 in settled.observed.requests.unloaded or {V1} <= set(settled.table.resident["default"])


def test_a_rollout_that_was_called_off_counts_as_a_step_back() -> None:
    for phase in (warming, broken, incompatible):
        engine = phase()
        _called_off(engine)
        state = engine.state.alias("m", "champion")
        assert state is not None
        assert (state.back, state.reason, state.why) == (True, None, "it was the first that was known")
        assert engine.state.observed.intents == {}


def test_an_alias_that_is_new_answers_at_once() -> None:
    engine = live()
    engine.registry(registered(champion="1", challenger="3"))
    assert engine.answers("m@challenger") == "3"
    assert V3 not in engine.table.resident["default"], "a call loads it"


def test_reconcile_does_not_change_what_it_is_given() -> None:
    engine = warming()
    before, text = engine.state, repr(engine.state)
    _load_succeeds(engine)
    assert engine.state is not before
    assert repr(before) == text
