"""How answers of the registry that overlap are put together, and how long polls pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.control.loop import ControlLoop
from app.control.registry_sync import RegistrySync
from app.errors import RegistryUnavailable
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.release_state import Now, ReleaseSettings
from tests.control.registry_in_memory import Model, RegistryInMemory


class World:
    """A registry of two models, and what keeps the state equal to it."""

    def __init__(self, poll_s: float = 0.01) -> None:
        self.registry = RegistryInMemory(a=Model({"champion": "1"}), b=Model({"champion": "1"}))
        self.loop = ControlLoop(ReleaseSettings("champion", [], {"default": PoolPlan()}))
        self.sync = RegistrySync(cast(Any, self.registry), self.loop, poll_s)

    def known(self, name: str) -> str:
        return self.loop.state.models[name].aliases["champion"]

    async def write(self, name: str, version: str) -> None:
        await self.sync.set_alias(name, "champion", version)

    async def asked(self, question: str, times: int = 1) -> None:
        await asyncio.to_thread(self.registry.wait_until_asked, question, times)

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sync.poll())
        yield
        task.cancel()


async def test_a_poll_from_before_a_write_does_not_undo_it() -> None:
    world = World()
    await world.sync.model("a")
    world.registry.slow = {"models"}
    async with world.polling():
        await world.asked("models")
        await world.write("a", "2")
        world.registry.go_on.set()
        await world.asked("models", 2)
        assert world.known("a") == "2"


async def test_an_answer_from_before_a_write_is_asked_for_again() -> None:
    world = World()
    await world.sync.model("a")
    world.registry.slow = {"a"}
    asking = asyncio.create_task(world.sync.model("a"))
    await world.asked("a", 2)
    await world.write("a", "2")
    world.registry.go_on.set()
    assert (await asking).aliases == {"champion": "2"}
    assert world.known("a") == "2"


async def test_an_answer_is_never_older_than_the_question() -> None:
    world = World()
    world.registry.slow = {"a"}
    first = asyncio.create_task(world.sync.model("a"))
    await asyncio.to_thread(world.registry.wait_until_asked, "a")
    world.registry.of["a"].aliases["champion"] = "2"
    later = [asyncio.create_task(world.sync.model("a")) for _ in range(3)]
    await asyncio.sleep(0)
    world.registry.go_on.set()
    assert (await first).aliases == {"champion": "1"}
    assert [model.aliases for model in await asyncio.gather(*later)] == [{"champion": "2"}] * 3
    assert world.registry.times_asked("a") == 2


async def test_a_poll_counts_for_models_not_read_meanwhile() -> None:
    world = World(poll_s=600)
    world.registry.slow = {"models"}
    async with world.polling():
        await world.asked("models")
        world.registry.of["b"].aliases["champion"] = "2"
        await world.sync.model("b")
        world.loop.changed.clear()
        world.registry.go_on.set()
        await world.loop.changed.wait()
        assert (world.known("a"), world.known("b")) == ("1", "2")


async def test_an_answer_that_is_not_understood_counts_as_a_failure() -> None:
    world = World(poll_s=600)
    await world.sync.model("a")
    world.registry.of["b"] = cast(Any, None)
    world.loop.changed.clear()
    async with world.polling():
        await world.loop.changed.wait()
    assert world.sync.error == "the model registry sent a malformed answer; the log has the cause"
    assert world.loop.state.table.stale_since is not None
    assert world.known("a") == "1"


@pytest.mark.parametrize(
    ("poll_s", "failures", "took_s", "pause_s"),
    [(5, 0, 0.1, 5), (5, 0, 4, 20), (5, 1, 4, 10), (5, 2, 0, 20), (5, 50, 0, 30), (60, 3, 0, 60)],
)
def test_pauses_grow_with_failures_and_long_polls_and_vary(
    poll_s: float, failures: int, took_s: float, pause_s: float
) -> None:
    sync = World(poll_s).sync
    sync._failures = failures
    pauses = [sync._pause_s(took_s) for _ in range(200)]
    assert all(0.8 * pause_s <= pause <= 1.2 * pause_s for pause in pauses)
    assert len(set(pauses)) > 100


A1, A2, A3 = (ModelVersion("a", number) for number in "123")


async def held(world: World, *versions: ModelVersion) -> None:
    """A pool member has these in memory."""
    states = {version: VersionState("ready") for version in versions}
    await world.loop.observe(lambda observed: observed.reported("r1", "default", states, {}, orders={}, now=0.0))


def eternal() -> World:
    """A world whose pool members never fall silent."""
    world = World()
    world.loop.clock = lambda: Now(0.0, 0.0)
    world.registry.of["a"].versions = 3
    return world


async def test_a_deleted_version_is_unloaded_by_the_next_poll() -> None:
    world = eternal()
    await held(world, A1, A2, A3)
    world.registry.deleted = {A2}
    async with world.polling():
        await world.loop.until(lambda state: state.table.unloads == {A2: 1}, 20)
    assert world.loop.state.members.versions == {A1, A3}
    assert A2 in world.loop.state.observed.requests.unloaded


async def test_a_deleted_version_that_was_called_by_number_is_unloaded() -> None:
    """No pool member has reported it: a gateway remembers it."""
    world = eternal()
    assert await world.sync.has_version(A2)
    world.registry.deleted = {A2}
    async with world.polling():
        await world.loop.until(lambda state: state.table.unloads == {A2: 1}, 20)
        await world.asked("models", world.registry.times_asked("models") + 2)
    assert world.loop.state.table.unloads == {A2: 1}


async def test_without_the_registry_no_version_counts_as_deleted() -> None:
    def raise_unavailable() -> None:
        raise RegistryUnavailable("it does not answer")

    world = eternal()
    await held(world, A2)
    world.registry.deleted = {A2}
    world.registry.down = raise_unavailable
    async with world.polling():
        await world.asked("models", 3)
    assert world.loop.state.members.versions == {A2}
    assert world.loop.state.table.unloads == {}


async def test_versions_that_the_list_names_are_not_asked_about() -> None:
    def fail() -> None:
        raise AssertionError("asked about a version")

    world = eternal()
    await held(world, A1, A3)  # that of the alias, and the newest
    world.registry.down = fail
    async with world.polling():
        await world.asked("models", 3)
    assert world.sync.error is None
