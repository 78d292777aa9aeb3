"""Answers of a registry that lag behind what was written to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.control.generations import LAG_S, Generations
from app.serving.releases.registered_model import RegisteredModel


class World:
    """The generations of one model, and their clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.generations = Generations(lambda: self.now)

    def write(self, before: str | None, after: str) -> None:
        self.generations.written(named(before), ("alias", "champion"), after)

    def seen(self, answers: Iterable[str | None]) -> list[str | None]:
        return [self.generations.merge(named(one), named(None)).aliases.get("champion") for one in answers]


def named(version: str | None) -> RegisteredModel:
    return RegisteredModel("m", {} if version is None else {"champion": version}, {"other": "tag"}, "3", 7)


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (["1", "1", "2"], ["2", "2", "2"]),
        (["2", "1"], ["2", "1"]),  # moved back elsewhere, once it had been read
        (["3", "1"], ["3", "1"]),  # moved on elsewhere
        ([None], [None]),  # deleted elsewhere
    ],
)
def test_an_older_value_is_not_believed_until_the_write_was_read(
    answers: list[str | None], seen: list[str | None]
) -> None:
    world = World()
    world.write("1", "2")
    assert world.seen(answers) == seen


def test_an_older_value_is_believed_when_it_lasts() -> None:
    world = World()
    world.write("1", "2")
    world.now += LAG_S + 0.1
    assert world.seen(["1"]) == ["1"]


def test_the_last_of_several_writes_counts() -> None:
    world = World()
    world.write("1", "2")
    world.write("2", "3")
    assert world.seen(["1", "2", "1"]) == ["3", "3", "3"]
    world.write("3", "1")
    assert world.seen(["1", "2", "3", "1"]) == ["1", "1", "1", "1"]


def test_new_aliases_and_changed_tags_are_kept_as_written() -> None:
    world = World()
    world.write(None, "2")
    model = world.generations.written(named("2"), ("tag", "new"), "yes")
    model = world.generations.written(model, ("tag", "other"), None)
    assert (model.aliases, model.tags) == ({"champion": "2"}, {"new": "yes"})
    assert world.generations.merge(named(None), model) == model
    assert (model.latest, model.created) == ("3", 7)


@pytest.mark.parametrize("known", [None, replace(named("2"), created=6)], ids=["deleted", "registered again"])
def test_a_model_registered_again_has_no_writes(known: RegisteredModel | None) -> None:
    world = World()
    world.write("1", "2")
    assert world.generations.merge(named("1"), known).aliases == {"champion": "1"}
    assert world.seen(["1"]) == ["1"]


def test_a_model_has_a_new_generation_after_each_write() -> None:
    generations = Generations()
    begun = generations.begin()
    assert generations.newer(begun) == set()
    generations.advance("m")
    assert generations.newer(begun) == {"m"}
    assert generations.newer(generations.begin()) == set()
