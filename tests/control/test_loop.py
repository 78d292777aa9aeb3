"""The control loop: what it saves, whom it wakes, and for whom it waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.control import loop as module
from app.control.loop import ControlLoop
from app.control.snapshot import Snapshot
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.observed import Observed
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.release_state import Now, ReleaseSettings

SETTINGS = ReleaseSettings("champion", ["*"], {"default": PoolPlan()})
V1 = ModelVersion("m", "1")


def registered(**aliases: str) -> Any:
    model = RegisteredModel("m", aliases, {}, "3", 1)
    return lambda observed: replace(observed, models={"m": model})


def holding(observed: Observed) -> Observed:
    return observed.reported("r1", "default", {V1: VersionState("ready")}, {}, orders={}, now=0)


async def test_a_failed_snapshot_is_written_with_the_next_event(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    loop = ControlLoop(SETTINGS, Snapshot(folder / "releases.json"))
    folder.write_text("a file is in the way")
    await loop.observe(registered(champion="1"))
    folder.unlink()
    await loop.observe()
    assert json.loads((folder / "releases.json").read_text())["live"]["m"]["champion"]["version"] == "1"


async def test_a_snapshot_is_written_only_when_it_would_differ(tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    loop = ControlLoop(SETTINGS, Snapshot(path), clock=lambda: Now(0, 0))
    await loop.observe(registered(champion="1"))
    path.unlink()
    await loop.observe(lambda observed: observed.reported("r1", "default", {}, {}, orders={}, now=0))
    assert not path.exists()
    await loop.observe(holding)
    assert path.exists(), "version 1 has been warm"


async def test_a_change_during_a_write_is_written_too(tmp_path: Path) -> None:
    class HeldSnapshot(Snapshot):
        """Writes once it may."""

        may_write = asyncio.Event()

        async def write(self, content: Mapping[str, Any]) -> bool:
            await self.may_write.wait()
            return await super().write(content)

    path = tmp_path / "releases.json"
    snapshot = HeldSnapshot(path)
    loop = ControlLoop(SETTINGS, snapshot)
    first = asyncio.create_task(loop.observe(registered(champion="1")))
    await asyncio.sleep(0)
    async with loop._news:  # as a waiting caller does that has just been woken
        second = asyncio.create_task(loop.observe(registered(champion="1", canary="2")))
        await asyncio.sleep(0)
        snapshot.may_write.set()
        await first
    await second
    assert json.loads(path.read_text())["live"]["m"]["canary"]["version"] == "2"


async def test_a_new_loop_continues_from_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    loop = ControlLoop(SETTINGS, Snapshot(path), term=1)
    await loop.observe(registered(champion="1"))
    again = ControlLoop(SETTINGS, Snapshot(path), term=2)
    assert (again.state.table.term, again.state.live("m", "champion")) == (2, "1")


async def test_an_invalid_snapshot_is_logged_and_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "releases.json"
    path.write_text('{"live": [], "models": [{"name": "m"}]}')
    loop = ControlLoop(SETTINGS, Snapshot(path))
    assert loop.state.observed.models is None
    assert "failed to understand the snapshot" in caplog.text


async def test_an_event_wakes_those_who_wait_for_its_consequence() -> None:
    loop = ControlLoop(SETTINGS)
    waiting = asyncio.create_task(loop.until(lambda state: state.live("m", "champion") == "1", 20))
    await asyncio.sleep(0)
    await loop.observe(registered())
    assert not waiting.done()
    await loop.observe(registered(champion="1"))
    await waiting


async def test_a_noted_event_counts_with_the_next_one() -> None:
    loop = ControlLoop(SETTINGS)
    await loop.observe(registered(champion="1"))
    loop.note(lambda observed: replace(observed, stale_since=7.0))
    assert loop.state.table.stale_since is None
    await loop.observe()
    assert loop.state.table.stale_since == 7.0


async def test_acknowledged_waits_for_gateways_that_are_alive() -> None:
    now = 0.0
    loop = ControlLoop(SETTINGS, gateway_ttl_s=45, clock=lambda: Now(now, now))
    await loop.observe(registered(champion="1"))
    epoch = loop.state.table.epoch
    await loop.acknowledged()
    await loop.gateway_has("g1", epoch)
    await loop.gateway_has("g2", -1)
    waiting = asyncio.create_task(loop.acknowledged())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await loop.gateway_has("g2", epoch)
    await waiting
    await loop.gateway_has("g2", -1)
    leaving = asyncio.create_task(loop.acknowledged())
    await asyncio.sleep(0.01)
    assert not leaving.done()
    await loop.gateway_left("g2")
    await leaving
    await loop.gateway_has("g3", -1)
    now = 46.0
    assert loop.gateways_have(epoch), "none has been heard of for too long"


async def test_a_silent_gateway_delays_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ACKNOWLEDGED_S", 0.01)
    loop = ControlLoop(SETTINGS)
    await loop.gateway_has("g1", -1)
    await loop.acknowledged()
    assert "has not taken table" in caplog.text
