"""The lanes of a gateway replica to real lane servers, which a pool's handle names."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from app.deployments import pool_lanes
    from app.deployments.pool_client import PoolClient
    from app.deployments.pool_lanes import PoolLanes

from app.errors import ReplicaDied
from app.lanes.server import LaneAddress, LaneServer
from app.metrics.lanes import LaneMetrics
from app.serving.placement.load import Backlog, CallNote
from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output

VERSION = ModelVersion("prices", "2")
BATCH = Batch(Layout("columns", ("a",), ("float64",), ((),)), (np.array([1.0]),), 1)


class Member:
    """A pool replica: counts its calls, which wait for `go`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = {VERSION}
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()
        self.server = LaneServer(self.predict, "the pool", lambda: self.held)
        self.address: LaneAddress | None = None

    async def start(self) -> None:
        self.address = await self.server.start(self.name, "127.0.0.1")

    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        self.calls += 1
        await self.go.wait()
        return Output("tensor", (), (np.array([float(self.name)]),), 1)


class Handle:
    """A pool's handle: every replica that answers tells its address; batches are answered with -1."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = [*members]
        self.asked = 0
        self.batches = 0

    def broadcast(self, method: str) -> Handle:
        assert method == "lane_address"
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        self.asked += 1
        return [member.address for member in self.members]

    def options(self, **_: Any) -> Handle:
        return self

    async def remote(self, *_: Any) -> Output:
        self.batches += 1
        return Output("tensor", (), (np.array([-1.0]),), 1)


class Pool:
    def __init__(self, members: list[Member], copies: int) -> None:
        self.members = {member.name: member for member in members}
        self.handle = Handle(members)
        self.registry = CollectorRegistry()
        self.lanes = PoolLanes("default", self.handle, LaneMetrics(self.registry))
        self.copies = copies
        self.client = PoolClient("default", self.handle, lambda _: self.copies, self.lanes)

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"pool": "default"})

    @property
    def order(self) -> list[Member]:
        """The members, the first holder of the version first."""
        return [self.members[name] for name in ranked(frozenset(self.members), VERSION)]

    async def predict(self, **further: Any) -> str:
        """Return the name of the member that answered, -1 for the handle."""
        found = await self.client.predict(VERSION, BATCH, Backlog(), **further)
        return f"{found.arrays[0][0]:.0f}"


@asynccontextmanager
async def pool(count: int = 1, *, copies: int = 1) -> AsyncIterator[Pool]:
    members = [Member(str(number)) for number in range(1, count + 1)]
    for member in members:
        await member.start()
    found = Pool(members, copies)
    try:
        yield found
    finally:
        found.lanes.close()
        for member in members:
            await member.server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def connected(pool: Pool) -> None:
    pool.lanes.follow(pool.members)
    await until(lambda: all(len(member.server.lanes) == 1 for member in pool.members.values()))
    await until(lambda: pool.lanes.choose(VERSION, 9) is not None)


async def test_a_batch_takes_the_lane_once_there_is_one() -> None:
    async with pool() as found:
        assert await found.predict() == "-1"
        assert found.metric("ml_serve_handle_batches_total") == 1
        await connected(found)
        assert found.metric("ml_serve_lanes") == 1
        before = found.metric("ml_serve_handle_batches_total")
        assert await found.predict() == "1"
        assert found.handle.batches == 1
        assert found.metric("ml_serve_handle_batches_total") == before
        await found.members["1"].server.stop(0)
        await until(lambda: found.metric("ml_serve_lanes") == 0)


async def test_a_member_without_lanes_is_called_by_the_handle() -> None:
    async with pool() as found:
        found.members["1"].address = None
        found.lanes.follow(found.members)
        await until(lambda: found.handle.asked > 0)
        assert await found.predict() == "-1"


async def test_a_member_that_cannot_be_reached_is_called_by_the_handle() -> None:
    async with pool() as found:
        await found.members["1"].server.stop(0)
        found.lanes.follow(found.members)
        await until(lambda: found.handle.asked > 0)
        assert await found.predict() == "-1"


async def test_a_version_held_by_none_goes_to_the_first_by_rank() -> None:
    async with pool(3) as found:
        await connected(found)
        for member in found.order:
            member.held = set()
            member.server.changed()
        await until(lambda: not any(lane.held for lane in found.lanes._lanes.values()))
        assert {await found.predict() for _ in range(5)} == {found.order[0].name}
        assert found.handle.batches == 0


async def test_a_member_without_a_lane_may_hold_the_version() -> None:
    async with pool(2) as found:
        with_lane, without = found.order
        with_lane.held = set()
        without.address = None
        found.lanes.follow(found.members)
        await until(lambda: len(with_lane.server.lanes) == 1)
        await until(lambda: found.metric("ml_serve_lanes") == 1)
        assert await found.predict() == "-1"


async def test_calls_stay_with_the_first_holders() -> None:
    async with pool(4, copies=2) as found:
        await connected(found)
        for _ in range(40):
            await found.predict()
        first, second, *others = found.order
        assert first.calls > 0 < second.calls
        assert [member.calls for member in others] == [0, 0]


async def test_calls_wait_for_a_new_copy_at_the_old_one() -> None:
    async with pool(2, copies=1) as found:
        first, second = found.order
        first.held = set()
        first.server.changed()
        await connected(found)
        assert await found.predict() == second.name
        first.held = {VERSION}
        first.server.changed()
        await until(lambda: (lane := found.lanes.choose(VERSION, 1)) is not None and len(lane.held) > 0)
        await until(lambda: all(VERSION in lane.held for lane in found.lanes._lanes.values()))
        assert await found.predict() == first.name


async def test_the_member_with_fewer_calls_gets_the_next_one() -> None:
    async with pool(2, copies=2) as found:
        await connected(found)
        busy, idle = found.order
        busy.go.clear()
        calls = []
        while not busy.calls:
            calls.append(asyncio.ensure_future(found.predict()))
            await asyncio.sleep(0)
            await until(lambda: sum(member.calls for member in found.order) == len(calls))
        before = idle.calls
        for _ in range(10):
            assert await found.predict() == idle.name
        assert idle.calls == before + 10
        busy.go.set()
        await asyncio.gather(*calls)


async def test_a_batch_on_a_dead_member_is_repeated_once() -> None:
    async with pool(2, copies=1) as found:
        await connected(found)
        first, second = found.order
        first.go.clear()
        call = asyncio.ensure_future(found.predict())
        await until(lambda: first.calls == 1)
        await first.server.stop(0)
        assert await call == second.name
        assert found.handle.batches == 0


async def test_a_batch_that_killed_two_members_fails() -> None:
    async with pool(2, copies=1) as found:
        await connected(found)
        for member in found.order:
            member.go.clear()
        call = asyncio.ensure_future(found.predict())
        for member in found.order:
            await until(lambda: member.calls == 1)  # noqa: B023 - awaited here
            await member.server.stop(0)
        with pytest.raises(ReplicaDied):
            await call


async def test_a_shadow_batch_is_not_repeated() -> None:
    async with pool(2, copies=1) as found:
        await connected(found)
        found.order[0].go.clear()
        call = asyncio.ensure_future(found.predict(again=False))
        await until(lambda: found.order[0].calls == 1)
        await found.order[0].server.stop(0)
        with pytest.raises(ReplicaDied):
            await call


async def test_a_draining_member_gets_no_further_batches() -> None:
    async with pool(2, copies=1) as found:
        await connected(found)
        first, second = found.order
        first.go.clear()
        call = asyncio.ensure_future(found.predict())
        await until(lambda: first.calls == 1)
        stop = asyncio.ensure_future(first.server.stop(30))
        await until(lambda: found.lanes._lanes[first.name].takes_calls is False)
        assert await found.predict() == second.name
        first.go.set()
        assert await call == first.name
        await stop


async def test_a_lost_lane_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_lanes, "_RETRY_S", 0.01)
    async with pool() as found:
        await connected(found)
        before = found.lanes.choose(VERSION, 1)
        for lane in found.members["1"].server.lanes:
            lane.close()
        await until(lambda: found.lanes.choose(VERSION, 1) not in (None, before))
        assert await found.predict() == "1"


async def test_a_new_member_gets_a_lane_at_once() -> None:
    async with pool(2) as found:
        found.lanes.follow(["1", "not started"])  # tries again after longer and longer pauses
        await until(lambda: found.lanes.choose(VERSION, 1) is not None)
        asked = found.handle.asked
        found.lanes.follow(["1", "2", "not started"])
        await until(lambda: len(found.members["2"].server.lanes) == 1)
        assert found.handle.asked == asked + 1


async def test_a_member_that_the_table_does_not_name_gets_no_batches() -> None:
    async with pool() as found:
        await connected(found)
        found.lanes.follow([])
        assert await found.predict() == "-1"
        found.lanes.follow(found.members)
        assert await found.predict() == "1"  # over the same lane


@pytest.mark.parametrize(("known", "pauses"), [(0, [1, 1, 1, 1]), (1, [1, 2, 4, 8])])
async def test_a_pool_that_starts_is_asked_each_second(
    known: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == len(pauses):
            raise asyncio.CancelledError

    async with pool() as found:
        monkeypatch.setattr("asyncio.sleep", sleep)
        found.handle.members = found.handle.members[:known]
        found.lanes.follow(["not started"])
        connecting = found.lanes._connecting
        assert connecting is not None
        await asyncio.wait([connecting])
        assert waited == pauses


async def test_a_handle_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_lanes, "_RETRY_S", 0.01)
    async with pool() as found:
        answer, failed = found.handle.results_async, asyncio.Event()

        async def fail(**_: Any) -> list[Any]:
            found.handle.results_async = answer  # type: ignore[method-assign]
            failed.set()
            raise RuntimeError("no replicas")

        found.handle.results_async = fail  # type: ignore[method-assign]
        await connected(found)
        assert failed.is_set()
