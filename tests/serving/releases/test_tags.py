"""The tag that gives a model processes of its own."""

from __future__ import annotations

import pytest

from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.tags import read_tags
from tests.serving.releases.engine import Engine


def test_the_tag_reaches_the_pools() -> None:
    engine = Engine(now=0.0)
    engine.registry(
        RegisteredModel("m", {"champion": "1"}, {"serving.isolation": "process"}, "1"),
        RegisteredModel("n", {"champion": "1"}, {}, "1"),
    )
    assert {name: release.isolated for name, release in engine.table.releases.items()} == {"m": True, "n": False}


@pytest.mark.parametrize("text", ["", "thread", "Process"])
def test_another_value_is_a_problem(text: str) -> None:
    tags = read_tags({"serving.isolation": text})
    assert not tags.isolated
    assert tags.problems == (f"tag serving.isolation is {text!r}, expected 'process': it is ignored",)
