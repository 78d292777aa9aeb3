"""How the reader of the registry puts together what it is told at the same time, and how long it pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.control.registry_sync import RegistryReader
from app.serving.placement.pool_members import PoolPlan
from app.serving.releases.reconciler import ReleaseBook
from tests.control.registry_in_memory import Model, RegistryInMemory


async def nothing() -> None:
    """Nobody is told."""


class World:
    """A reader of such a registry, with its book."""

    def __init__(self, poll_s: float = 0.01) -> None:
        self.registry = RegistryInMemory(a=Model({"champion": "1"}), b=Model({"champion": "1"}))
        self.book = ReleaseBook(default_alias="champion", preload=(), pools={"default": PoolPlan()})
        self.changed = asyncio.Event()
        self.reader = RegistryReader(cast(Any, self.registry), self.book, self._changed, poll_s)

    def known(self, name: str) -> str:
        return self.book.models[name].aliases["champion"]

    async def write(self, name: str, version: str) -> None:
        await self.reader.write(name, lambda registry: registry.set_alias(name, "champion", version))
        self.book.written(name, aliases={"champion": version}, tags={})

    async def asked(self, question: str, times: int = 1) -> None:
        await asyncio.to_thread(self.registry.wait_until_asked, question, times)

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reader.poll())
        yield
        task.cancel()

    async def _changed(self) -> None:
        self.changed.set()


async def test_what_was_written_is_not_undone_by_a_reading_of_before() -> None:
    world = World()
    await world.reader.model("a")
    world.registry.slow = {"models"}
    async with world.polling():
        await world.asked("models")
        await world.write("a", "2")
        world.registry.go_on.set()
        await world.asked("models", 2)
        assert world.known("a") == "2"


async def test_what_was_written_is_not_undone_by_an_answer_about_the_model_of_before() -> None:
    world = World()
    await world.reader.model("a")
    world.registry.slow = {"a"}
    asking = asyncio.create_task(world.reader.model("a"))
    await world.asked("a", 2)
    await world.write("a", "2")
    world.registry.go_on.set()
    assert (await asking).aliases == {"champion": "2"}
    assert world.known("a") == "2"


async def test_an_answer_is_never_older_than_the_question() -> None:
    world = World()
    world.registry.slow = {"a"}
    first = asyncio.create_task(world.reader.model("a"))
    await asyncio.to_thread(world.registry.wait_until_asked, "a")
    world.registry.of["a"].aliases["champion"] = "2"
    later = [asyncio.create_task(world.reader.model("a")) for _ in range(3)]
    await asyncio.sleep(0)
    world.registry.go_on.set()
    assert (await first).aliases == {"champion": "1"}
    assert [model.aliases for model in await asyncio.gather(*later)] == [{"champion": "2"}] * 3
    assert world.registry.times_asked("a") == 2


async def test_a_reading_counts_for_all_models_that_were_not_asked_about_meanwhile() -> None:
    world = World(poll_s=600)
    world.registry.slow = {"models"}
    async with world.polling():
        await world.asked("models")
        world.registry.of["b"].aliases["champion"] = "2"
        await world.reader.model("b")
        world.changed.clear()
        world.registry.go_on.set()
        await world.changed.wait()
        assert (world.known("a"), world.known("b")) == ("1", "2")


async def test_what_is_not_understood_for_whatever_reason_counts_as_not_read() -> None:
    world = World(poll_s=600)
    await world.reader.model("a")
    world.registry.of["b"] = cast(Any, None)
    world.changed.clear()
    async with world.polling():
        await world.changed.wait()
    assert world.reader.error == "what the model registry answers is not understood; the log has the cause"
    assert world.book.stale_since is not None
    assert world.known("a") == "1"


@pytest.mark.parametrize(
    ("poll_s", "failures", "took_s", "pause_s"),
    [(5, 0, 0.1, 5), (5, 0, 4, 20), (5, 1, 4, 10), (5, 2, 0, 20), (5, 50, 0, 30), (60, 3, 0, 60)],
)
def test_pauses_grow_with_failures_and_with_long_readings_and_are_never_all_alike(
    poll_s: float, failures: int, took_s: float, pause_s: float
) -> None:
    book = ReleaseBook(default_alias="champion", preload=(), pools={"default": PoolPlan()})
    reader = RegistryReader(cast(Any, None), book, nothing, poll_s)
    reader._failures = failures
    pauses = [reader._pause_s(took_s) for _ in range(200)]
    assert all(0.8 * pause_s <= pause <= 1.2 * pause_s for pause in pauses)
    assert len(set(pauses)) > 100
