"""What is asked of the writer at the same time, and in states that a registry comes to when others write to it too."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.control.promotions import ReleaseWriter
from app.control.registry_sync import RegistryReader
from app.errors import Conflict, RegistryReadOnly
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import MOVED
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.rollout import Contract
from app.serving.releases.tags import FORCE_TAG
from app.serving.releases.traffic import SHADOW_TAG, TRAFFIC_TAG, make_plan
from tests.control.registry_in_memory import Model, RegistryInMemory

READY = VersionState("ready", None, 100, 5.0)
OIL = {"name": "oil", "type": "double", "required": True}
GAS = {"name": "gas", "type": "double", "required": False}
V1, V2, V3 = (ModelVersion("m", number) for number in "123")


class World:
    """A writer with all that it works on; the pool has every version, once it is told to have it."""

    def __init__(self, *, versions: int = 3, **aliases: str) -> None:
        self.model = Model(aliases, versions=versions)
        self.registry = RegistryInMemory(m=self.model)
        self.book = ReleaseBook(default_alias="champion", preload=("*",), pools={"default": PoolPlan()})
        self.reader = RegistryReader(cast(Any, self.registry), self.book, self._published, 600)
        self.writer = ReleaseWriter(self.book, self.reader, read_only=False, warm=self._warm, published=self._published)
        self.slow: dict[ModelVersion, asyncio.Event] = {}

    async def read(self) -> None:
        """As the poll does."""
        self.book.registry_read(self.registry.models())
        await self._published()

    async def pool(self, takes: dict[ModelVersion, list[dict[str, Any]]]) -> None:
        """What the pool has in memory, and what that takes."""
        for version, inputs in takes.items():
            self.book.switches.described(version, Contract(inputs))
        self.book.members.reported("r1", "default", dict.fromkeys(takes, READY), 0)
        await self._published()

    def answers(self, alias: str = "champion") -> tuple[str | None, str | None]:
        """What the bare name and an alias mean to callers."""
        release = self.book.table.releases["m"]
        return release.default, release.aliases.get(alias)

    async def _warm(self, version: ModelVersion) -> None:
        if version in self.slow:
            await self.slow[version].wait()

    async def _published(self) -> None:
        self.book.settle(0)


async def test_what_the_bare_name_would_not_follow_is_not_promoted_by_the_first_default_alias_either() -> None:
    world = World(versions=2)
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    assert world.answers() == ("2", None)
    with pytest.raises(Conflict, match="'gas'"):
        await world.writer.promote(V1, "champion", force=False)
    assert not world.model.aliases
    switch = await world.writer.promote(V1, "champion", force=True)
    assert switch.changed
    assert world.answers() == ("1", "1")


async def test_an_alias_that_the_bare_name_does_not_follow_can_be_forced() -> None:
    world = World(versions=2)
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.answers() == ("2", "1")
    with pytest.raises(Conflict, match="'gas'"):
        await world.writer.promote(V1, "champion", force=False)
    assert (await world.writer.promote(V1, "champion", force=True)).changed
    assert world.model.tags[FORCE_TAG] == "1"
    assert world.answers() == ("1", "1")


async def test_what_one_alias_answered_before_is_no_excuse_for_another_one() -> None:
    world = World(champion="2", challenger="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL, GAS]})
    world.model.aliases["challenger"] = "2"
    await world.read()
    assert world.answers("challenger") == ("2", "2")
    with pytest.raises(Conflict, match="'gas'"):
        await world.writer.promote(V1, "champion", force=False)
    assert (await world.writer.promote(V1, "challenger", force=False)).changed, "there it is a step back"


async def test_of_two_promotes_at_once_the_later_one_is_measured_by_what_answers_then() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL], V3: [OIL, GAS]})
    world.slow[V2] = asyncio.Event()
    slow = asyncio.create_task(world.writer.promote(V2, "champion", force=False))
    await asyncio.sleep(0)
    await world.writer.promote(V3, "champion", force=False)
    world.slow[V2].set()
    with pytest.raises(Conflict, match="'gas'"):
        await slow
    assert world.model.aliases["champion"] == "3"
    assert world.answers() == ("3", "3")


async def test_a_rollback_does_not_undo_what_was_promoted_meanwhile() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL], V3: [OIL]})
    await world.writer.promote(V2, "champion", force=False)
    world.slow[V1] = asyncio.Event()
    back = asyncio.create_task(world.writer.rollback("m", "champion"))
    await asyncio.sleep(0)
    await world.writer.promote(V3, "champion", force=False)
    world.slow[V1].set()
    with pytest.raises(Conflict, match="meanwhile"):
        await back
    assert world.model.aliases["champion"] == "3"


async def test_what_the_registry_has_refused_does_not_explain_what_somebody_else_does_later() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    await world.writer.promote(V2, "champion", force=False)

    def refuse(name: str) -> None:
        raise RegistryReadOnly(f"nobody writes to {name}")

    world.registry.refuses = refuse
    with pytest.raises(RegistryReadOnly):
        await world.writer.rollback("m", "champion")
    world.registry.refuses = lambda name: None
    await world.read()  # it has what was written before
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.book.live.of("m")["champion"].why == MOVED
    assert (await world.writer.rollback("m", "champion")).version == V2


async def test_a_registry_that_lags_behind_what_is_written_to_it_undoes_nothing() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.lag_behind()
    await world.writer.promote(V2, "champion", force=False)
    await world.read()
    assert world.answers() == ("2", "2")
    assert not (await world.writer.promote(V2, "champion", force=False)).changed
    switch = await world.writer.rollback("m", "champion")
    assert (switch.version, switch.previous, switch.changed) == (V1, "2", True)
    await world.read()
    assert world.answers() == ("1", "1")


async def test_a_registry_that_does_not_lag_behind_is_believed_at_once_by_who_moves_an_alias_back_there() -> None:
    world = World(champion="1")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    asked = world.registry.times_asked("m")
    await world.writer.promote(V2, "champion", force=False)
    await asyncio.to_thread(world.registry.wait_until_asked, "m", asked + 2)  # before the write and after it
    await world.reader.model("m")  # the same question, or one after it
    world.model.aliases["champion"] = "1"
    await world.read()
    assert world.answers() == ("1", "1")


async def test_of_two_divisions_at_once_the_later_one_is_in_force() -> None:
    world = World(champion="1", challenger="2")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.slow = {"write m"}
    first = asyncio.create_task(world.writer.set_traffic("m", make_plan({"champion": 90, "challenger": 10})))
    await asyncio.to_thread(world.registry.wait_until_asked, "write m")
    later = asyncio.create_task(world.writer.set_traffic("m", make_plan({})))
    await asyncio.wait([later], timeout=0.1)  # it has its turn, should it take it
    world.registry.go_on.set()
    await asyncio.gather(first, later)
    assert TRAFFIC_TAG not in world.model.tags
    assert world.book.table.releases["m"].traffic is None


async def test_a_division_is_written_as_a_whole_even_when_its_caller_has_gone() -> None:
    world = World(champion="1", challenger="2")
    await world.read()
    await world.pool({V1: [OIL], V2: [OIL]})
    world.registry.slow = {"write m"}
    division = asyncio.create_task(
        world.writer.set_traffic("m", make_plan({"champion": 90, "challenger": 10}, "challenger"))
    )
    await asyncio.to_thread(world.registry.wait_until_asked, "write m")
    division.cancel()
    await asyncio.wait([division])
    world.registry.go_on.set()
    await asyncio.to_thread(world.registry.wait_until_asked, "written m", 2)
    assert world.model.tags.keys() == {TRAFFIC_TAG, SHADOW_TAG}
