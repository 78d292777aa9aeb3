"""Orders at the same time, and orders while others write to the registry too."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from app.control.loop import ControlLoop
from app.control.promotions import Promotions
from app.control.registry_sync import RegistrySync
from app.errors import Conflict, RegistryReadOnly
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import MOVED
from app.serving.releases.observed import Contract
from app.serving.releases.release_state import ReleaseSettings
from app.serving.releases.tags import FORCE_TAG
from app.serving.releases.traffic import SHADOW_TAG, TRAFFIC_TAG, make_plan
from tests.control.registry_in_memory import Model, RegistryInMemory

READY = VersionState("ready", None, 100, 5.0)
OIL = {"name": "oil", "type": "double", "required": True}
GAS = {"name": "gas", "type": "double", "required": False}
V1, V2, V3 = (ModelVersion("m", number) for number in "123")


class World:
    """`Promotions` with all that it needs; a version is warm as soon as the pool has it."""

    def __init__(self, *, versions: int = 3, **aliases: str) -> None:
        self.model = Model(aliases, versions=versions)
        self.registry = RegistryInMemory(m=self.model)
        self.loop = ControlLoop(ReleaseSettings("champion", ["*"], {"default": PoolPlan()}))
        self.sync = RegistrySync(cast(Any, self.registry), self.loop, 600)
        self.promotions = Promotions(self.loop, self.sync, read_only=False, warm=self._warm)
        self.slow: dict[ModelVersion, asyncio.Event] = {}

    async def read(self) -> None:
        """Poll the registry once."""
        await self.sync._poll_once()

    async def pool(self, takes: dict[ModelVersion, list[dict[str, Any]]]) -> None:
        """Have the pool hold versions with these inputs."""
        contracts = {version: Contract(inputs) for version, inputs in takes.items()}
        states = dict.fromkeys(takes, READY)
        await self.loop.observe(
            lambda seen: seen.reported("r1", "default", states, contracts, orders={}, now=time.monotonic())
        )

    def answers(self, alias: str = "champion") -> tuple[str | None, str | None]:
        """What the bare name and an alias mean to callers."""
        release = self.loop.state.table.releases["m"]
        return release.default, release.aliases.get(alias)

    async def _warm(self, version: ModelVersion) -> None:
        if version in self.slow:
            await self.slow[version].wait()


async def test_the_first_default_alias_must_fit_callers_of_the_name() -> None:
    world = World(versions=2)
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    assert world.answers() == ("2", None)
    with pytest.raises(Conflict, match="'gas'"):
        await world.promotions.promote(V1, "champion", force=False)
    assert not world.model.aliases
    switch = await world.promotions.promote(V1, "champion", force=True)
    assert switch.changed
    assert world.answers() == ("1", "1")


async def test_an_alias_that_the_name_does_not_follow_can_be_forced() -> None:
    world = World(versions=2)
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.answers() == ("2", "1")
    with pytest.raises(Conflict, match="'gas'"):
        await world.promotions.promote(V1, "champion", force=False)
    assert (await world.promotions.promote(V1, "champion", force=True)).changed
    assert world.model.tags[FORCE_TAG] == "1"
    assert world.answers() == ("1", "1")


async def test_a_step_back_is_one_for_its_own_alias_only() -> None:
    world = World(champion="2", challenger="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    world.model.aliases["challenger"] = "2"
    await world.read()
    assert world.answers("challenger") == ("2", "2")
    with pytest.raises(Conflict, match="'gas'"):
        await world.promotions.promote(V1, "champion", force=False)
    assert (await world.promotions.promote(V1, "challenger", force=False)).changed, "there it is a step back"


async def test_a_slow_promote_is_compared_with_what_answers_at_its_end() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL], V3: [OIL, GAS]})
    world.slow[V2] = asyncio.Event()
    slow = asyncio.create_task(world.promotions.promote(V2, "champion", force=False))
    await asyncio.sleep(0)
    await world.promotions.promote(V3, "champion", force=False)
    world.slow[V2].set()
    with pytest.raises(Conflict, match="'gas'"):
        await slow
    assert world.model.aliases["champion"] == "3"
    assert world.answers() == ("3", "3")


async def test_a_rollback_does_not_undo_a_promote_meanwhile() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL], V3: [OIL]})
    await world.promotions.promote(V2, "champion", force=False)
    world.slow[V1] = asyncio.Event()
    back = asyncio.create_task(world.promotions.rollback("m", "champion"))
    await asyncio.sleep(0)
    await world.promotions.promote(V3, "champion", force=False)
    world.slow[V1].set()
    with pytest.raises(Conflict, match="meanwhile"):
        await back
    assert world.model.aliases["champion"] == "3"


async def test_a_refused_write_does_not_explain_a_later_move() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    await world.promotions.promote(V2, "champion", force=False)

    def refuse(name: str) -> None:
        raise RegistryReadOnly(f"nobody writes to {name}")

    world.registry.refuses = refuse
    with pytest.raises(RegistryReadOnly):
        await world.promotions.rollback("m", "champion")
    world.registry.refuses = lambda name: None
    await world.read()  # it has what was written before
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.loop.state.aliases["m"]["champion"].why == MOVED
    assert (await world.promotions.rollback("m", "champion")).version == V2


async def test_a_lagging_registry_undoes_no_write() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.lag_behind()
    await world.promotions.promote(V2, "champion", force=False)
    await world.read()
    assert world.answers() == ("2", "2")
    assert not (await world.promotions.promote(V2, "champion", force=False)).changed
    switch = await world.promotions.rollback("m", "champion")
    assert (switch.version, switch.previous, switch.changed) == (V1, "2", True)
    await world.read()
    assert world.answers() == ("1", "1")


async def test_a_move_back_elsewhere_counts_once_the_write_was_read() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    asked = world.registry.times_asked("m")
    await world.promotions.promote(V2, "champion", force=False)
    await asyncio.to_thread(world.registry.wait_until_asked, "m", asked + 2)  # before the write and after it
    await world.sync.model("m")  # the same question, or one after it
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.answers() == ("1", "1")


async def test_of_two_traffic_orders_at_once_the_later_one_counts() -> None:
    world = World(champion="1", challenger="2")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.slow = {"write m"}
    first = asyncio.create_task(world.promotions.set_traffic("m", make_plan({"champion": 90, "challenger": 10})))
    await asyncio.to_thread(world.registry.wait_until_asked, "write m")
    later = asyncio.create_task(world.promotions.set_traffic("m", make_plan({})))
    await asyncio.wait([later], timeout=0.1)  # it has its turn, should it take it
    world.registry.go_on.set()
    await asyncio.gather(first, later)
    assert TRAFFIC_TAG not in world.model.tags
    assert world.loop.state.table.releases["m"].traffic is None


async def test_a_traffic_order_is_finished_when_its_caller_leaves() -> None:
    world = World(champion="1", challenger="2")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.slow = {"write m"}
    division = asyncio.create_task(
        world.promotions.set_traffic("m", make_plan({"champion": 90, "challenger": 10}, "challenger"))
    )
    await asyncio.to_thread(world.registry.wait_until_asked, "write m")
    division.cancel()
    await asyncio.wait([division])
    world.registry.go_on.set()
    await asyncio.to_thread(world.registry.wait_until_asked, "written m", 2)
    assert world.model.tags.keys() == {TRAFFIC_TAG, SHADOW_TAG}
