"""How the reader of the registry puts together what it is told at the same time, and how long it pauses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.deployments.registry_reader import RegistryReader
from app.serving.pool_members import PoolPlan
from app.serving.ports import RegisteredModel
from app.serving.release_book import ReleaseBook


async def nothing() -> None:
    """Nobody is told."""


class Registry:
    """Models in memory. An answer is what was so when the question came, and is held back while `slow` names it."""

    def __init__(self) -> None:
        self.aliases = {"a": "1", "b": "1"}
        self.slow: set[str] = set()
        self.go_on = threading.Event()
        self._asked: list[str] = []
        self._news = threading.Condition()

    def models(self) -> Sequence[RegisteredModel]:
        found = [self._model(name) for name in sorted(self.aliases)]
        self._hold_back("models")
        return found

    def model(self, name: str) -> RegisteredModel:
        found = self._model(name)
        self._hold_back(name)
        return found

    def set_alias(self, name: str, alias: str, version: str) -> None:
        assert alias == "champion"
        self.aliases[name] = version

    def _model(self, name: str) -> RegisteredModel:
        return RegisteredModel(name, {"champion": self.aliases[name]}, {}, "2")

    def wait_until_asked(self, question: str, times: int) -> None:
        """Return once it was asked about a model, or for all ``models``, so many times."""
        with self._news:
            assert self._news.wait_for(lambda: self._asked.count(question) >= times, 20)

    def _hold_back(self, question: str) -> None:
        with self._news:
            self._asked.append(question)
            self._news.notify_all()
        if question in self.slow:
            assert self.go_on.wait(20)


class World:
    """A reader of such a registry, with its book."""

    def __init__(self, poll_s: float = 0.01) -> None:
        self.registry = Registry()
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


async def test_a_reading_counts_for_all_models_that_were_not_asked_about_meanwhile() -> None:
    world = World(poll_s=600)
    world.registry.slow = {"models"}
    async with world.polling():
        await world.asked("models")
        world.registry.aliases["b"] = "2"
        await world.reader.model("b")
        world.changed.clear()
        world.registry.go_on.set()
        await world.changed.wait()
        assert (world.known("a"), world.known("b")) == ("1", "2")


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
