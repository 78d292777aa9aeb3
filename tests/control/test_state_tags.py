"""The tag ``serving.live`` in a registry that refuses some writes."""

from __future__ import annotations

import asyncio

import pytest

from app.control.state_tags import write_live_tags
from app.errors import InvalidRequest, RegistryReadOnly, ServingError
from app.serving.references import ModelVersion
from app.serving.releases.tags import LIVE_TAG
from tests.control.registry_in_memory import Model
from tests.control.test_promotions import OIL, V1, World


@pytest.mark.parametrize("refusal", [RegistryReadOnly("not this one"), InvalidRequest("it is too long")])
async def test_a_refused_tag_does_not_stop_the_tags_of_other_models(
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
    writing = asyncio.create_task(write_live_tags(world.loop, world.sync))
    await asyncio.to_thread(world.registry.wait_until_asked, "written z")
    assert not writing.done()
    for _ in range(2):
        await world.loop.observe()
        await asyncio.sleep(0)
    writing.cancel()
    assert LIVE_TAG in other.tags
    assert LIVE_TAG not in world.model.tags
    assert len([record for record in caplog.records if "'m'" in record.getMessage()]) == 1
