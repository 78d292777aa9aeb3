"""A registry whose answers lag behind what was written to it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from app.serving.releases.recent_writes import LAG_S, OwnWrites
from app.serving.releases.registered_model import RegisteredModel


class World:
    """The writes, a clock, and what is known of one model."""

    def __init__(self) -> None:
        self.now = 100.0
        self.writes = OwnWrites(lambda: self.now)

    def write(self, before: str | None, after: str) -> None:
        self.writes.wrote(named(before), {"champion": after}, {})

    def seen(self, answers: Iterable[str | None]) -> list[str | None]:
        return [self.writes.over(named(answer)).aliases.get("champion") for answer in answers]


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
def test_an_answer_of_before_a_write_is_not_believed_for_a_while(
    answers: list[str | None], seen: list[str | None]
) -> None:
    world = World()
    world.write("1", "2")
    assert world.seen(answers) == seen


def test_what_is_answered_for_longer_is_so() -> None:
    world = World()
    world.write("1", "2")
    world.now += LAG_S + 0.1
    assert world.seen(["1"]) == ["1"]


def test_of_several_writes_the_last_one_counts_whichever_an_answer_has() -> None:
    world = World()
    world.write("1", "2")
    world.write("2", "3")
    assert world.seen(["1", "2", "1"]) == ["3", "3", "3"]
    world.write("3", "1")
    assert world.seen(["1", "2", "3", "1"]) == ["1", "1", "1", "1"]


def test_an_alias_that_is_new_and_tags_that_were_set_or_deleted_are_as_they_were_written() -> None:
    world = World()
    world.write(None, "2")
    world.writes.wrote(named("2"), {}, {"new": "yes", "other": None})
    model = world.writes.over(named(None))
    assert (model.aliases, model.tags) == ({"champion": "2"}, {"new": "yes"})
    assert (model.latest, model.created) == ("3", 7)


def test_a_name_that_means_another_model_has_none() -> None:
    world = World()
    world.write("1", "2")
    world.writes.forget("m")
    assert world.seen(["1"]) == ["1"]
