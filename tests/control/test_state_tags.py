"""Tags that tell what answers, in a registry that does not take each of them."""

from __future__ import annotations

import asyncio

import pytest

from app.control.state_tags import LiveTags
from app.errors import InvalidRequest, RegistryReadOnly, ServingError
from app.serving.references import ModelVersion
from app.serving.releases.tags import LIVE_TAG
from tests.control.registry_in_memory import Model
from tests.control.test_promotions import OIL, V1, World


@pytest.mark.parametrize("refusal", [RegistryReadOnly("not this one"), InvalidRequest("it is too long")])
async def test_a_model_that_may_not_be_written_to_keeps_no_other_from_being_told(
    refusal: ServingError, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(champion="1")
    other = world.registry.of["z"] = Model({"champion": "1"})

    def refuse(name: str) -> None:
        if name == "m":
            raise refusal

    world.registry.refuses = refuse
    await world.read()
    await world.pool({V1: [OIL], ModelVersion("z", "1"): [OIL]})
    changed = asyncio.Event()
    telling = asyncio.create_task(LiveTags(world.book, world.writer).follow(changed))
    changed.set()
    await asyncio.to_thread(world.registry.wait_until_asked, "written z")
    assert not telling.done()
    for _ in range(2):
        changed.set()
        await asyncio.sleep(0)
    telling.cancel()
    assert LIVE_TAG in other.tags
    assert LIVE_TAG not in world.model.tags
    assert len([record for record in caplog.records if "'m'" in record.getMessage()]) == 1
