"""Both ends of a lane, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.errors import InvalidInput, ModelFailed, Overloaded, ReplicaDied, Unavailable
from app.lanes import server as lanes_server
from app.lanes.client import Lane
from app.lanes.server import LaneAddress, LaneServer
from app.serving.placement.load import Backlog, CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output

VERSION = ModelVersion("prices", "2")
NOTE = CallNote(2, "gateway", Backlog(7, 0.5))
LAYOUT = Layout("columns", ("x",), ("float64",), ((),))
POOL = "pool 'default'"


def batch(*values: float) -> Batch:
    return Batch(LAYOUT, (np.array(values),), len(values))


def output(array: np.ndarray) -> Output:
    return Output("tensor", (), (array,), len(array))


class Replica:
    """Doubles each value; waits for `go` first if told to, and counts its calls."""

    def __init__(self) -> None:
        self.held = {VERSION}
        self.calls: list[tuple[ModelVersion, CallNote]] = []
        self.cancelled = 0
        self.waits = False
        self.go = asyncio.Event()
        self.entered = asyncio.Semaphore(0)

    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        self.calls.append((version, note))
        self.entered.release()
        if self.waits:
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return output(batch.arrays[0] * 2)


Server = tuple[LaneServer, LaneAddress, Replica]


@asynccontextmanager
async def serving(predict: Callable[..., Awaitable[Output]] | None = None) -> AsyncIterator[Server]:
    replica = Replica()
    server = LaneServer(predict or replica.predict, "the pool", lambda: replica.held)
    address = await server.start("member", "127.0.0.1")
    try:
        yield server, address, replica
    finally:
        await server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def test_a_batch_is_answered() -> None:
    async with serving() as (_, address, replica):
        lane = await Lane.connect(address, POOL)
        found = await lane.call(VERSION, batch(1, 2), NOTE)
        assert found.arrays[0].tolist() == [2, 4]
        assert replica.calls == [(VERSION, NOTE)]
        lane.close()


async def test_large_batches_and_small_ones_share_a_lane() -> None:
    async with serving() as (_, address, _):
        lane = await Lane.connect(address, POOL)
        sizes = (1, 100_000, 3, 1_000_000, 2, 600)
        found = await asyncio.gather(*(lane.call(VERSION, batch(*range(size)), NOTE) for size in sizes))
        assert [one.count for one in found] == [*sizes]
        assert all(np.array_equal(one.arrays[0], 2.0 * np.arange(one.count)) for one in found)
        assert all(one.arrays[0].flags.writeable for one in found)
        lane.close()


@pytest.mark.parametrize(("begins", "drains"), [(True, False), (False, False), (True, True)])
async def test_a_death_names_the_calls_that_had_begun(begins: bool, drains: bool) -> None:
    began = asyncio.Event()

    async def predict(version: ModelVersion, batch: Batch, note: CallNote, begins: Callable[[], None]) -> Output:
        if batch.arrays[0][0]:
            begins()
            began.set()
        await asyncio.sleep(60)
        raise AssertionError

    server = LaneServer(predict, "the pool", tells_begin=True)
    lane = await Lane.connect(await server.start("member", "127.0.0.1"), POOL)
    calls = [asyncio.ensure_future(lane.call(VERSION, batch(value), NOTE)) for value in (0, int(begins))]
    if begins:
        await began.wait()
    await until(lambda: server.ongoing == 2)
    if drains:
        await server.stop(0)
    else:
        for served in [*server.lanes]:
            served.close()
    deaths = await asyncio.gather(*calls, return_exceptions=True)
    assert [death.began for death in deaths if isinstance(death, ReplicaDied)] == [False, begins and not drains]
    lane.close()
    await server.stop(0)


async def test_a_slow_call_delays_no_other_one() -> None:
    async def predict(version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        await asyncio.sleep(0 if batch.arrays[0][0] else 60)
        return output(batch.arrays[0])

    async with serving(predict) as (_, address, _):
        lane = await Lane.connect(address, POOL)
        slow = asyncio.ensure_future(lane.call(VERSION, batch(0), NOTE))
        assert (await lane.call(VERSION, batch(5), NOTE)).arrays[0].tolist() == [5]
        assert lane.calls == 1
        slow.cancel()
        lane.close()


@pytest.mark.parametrize(
    "error",
    [ModelFailed("it failed", {"failure": "1"}), InvalidInput("row 3 is no number", {"row": 3}), ReplicaDied("x")],
)
async def test_our_errors_arrive_as_they_are(error: Exception) -> None:
    async def predict(*_: object) -> Output:
        raise error

    async with serving(predict) as (_, address, _):
        lane = await Lane.connect(address, POOL)
        with pytest.raises(type(error)) as found:
            await lane.call(VERSION, batch(1), NOTE)
        assert found.value.args == error.args
        lane.close()


async def test_no_text_of_another_error_arrives(caplog: pytest.LogCaptureFixture) -> None:
    async def predict(*_: object) -> Output:
        raise KeyError("password")

    async with serving(predict) as (_, address, _):
        lane = await Lane.connect(address, POOL)
        with pytest.raises(Unavailable) as found:
            await lane.call(VERSION, batch(1), NOTE)
        assert "password" not in found.value.message
        assert "password" in caplog.text
        lane.close()


async def test_an_answer_that_cannot_be_sent_is_an_error() -> None:
    async def predict(*_: object) -> Output:
        return output(np.array([lambda: None], dtype=object))

    async with serving(predict) as (_, address, _):
        lane = await Lane.connect(address, POOL)
        with pytest.raises(Unavailable):
            await lane.call(VERSION, batch(1), NOTE)
        lane.close()


async def test_a_cancelled_call_is_cancelled_in_the_pool() -> None:
    async with serving() as (_, address, replica):
        replica.waits = True
        lane = await Lane.connect(address, POOL)
        call = asyncio.ensure_future(lane.call(VERSION, batch(1), NOTE))
        await replica.entered.acquire()
        call.cancel()
        await until(lambda: replica.cancelled == 1)
        assert lane.calls == 0
        replica.go.set()
        assert (await lane.call(VERSION, batch(4), NOTE)).arrays[0].tolist() == [8]
        lane.close()


async def test_calls_fail_when_the_connection_is_lost() -> None:
    async with serving() as (server, address, replica):
        replica.waits = True
        lost: list[Lane] = []
        lane = await Lane.connect(address, POOL, lost.append)
        calls = [asyncio.ensure_future(lane.call(VERSION, batch(1), NOTE)) for _ in range(3)]
        for _ in calls:
            await replica.entered.acquire()
        await server.stop(0)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [ReplicaDied] * 3
        assert lost == [lane]
        with pytest.raises(ReplicaDied, match="pool 'default'"):
            await lane.call(VERSION, batch(1), NOTE)
        await until(lambda: replica.cancelled == 3)


async def test_a_gateway_that_ends_leaves_no_calls() -> None:
    async with serving() as (server, address, replica):
        replica.waits = True
        for _ in range(100):
            lane = await Lane.connect(address, POOL)
            call = asyncio.ensure_future(lane.call(VERSION, batch(1), NOTE))
            await replica.entered.acquire()
            lane.close()
            with pytest.raises(ReplicaDied):
                await call
        await until(lambda: replica.cancelled == 100 and not server.lanes)


async def test_a_drain_finishes_what_was_sent() -> None:
    async with serving() as (server, address, replica):
        replica.waits = True
        lane = await Lane.connect(address, POOL)
        call = asyncio.ensure_future(lane.call(VERSION, batch(3), NOTE))
        await replica.entered.acquire()
        stop = asyncio.ensure_future(server.stop(30))
        await until(lambda: not lane.takes_calls)
        assert not call.done()
        replica.go.set()
        assert (await call).arrays[0].tolist() == [6]
        await stop
        await until(lambda: lane.is_closed)
        with pytest.raises(ConnectionError):
            await Lane.connect(address, POOL)


async def test_gateways_know_what_a_replica_holds() -> None:
    async with serving() as (server, address, replica):
        lane = await Lane.connect(address, POOL)
        assert lane.held == {VERSION}
        replica.held = {VERSION, ModelVersion("prices", "3")}
        server.changed()
        await until(lambda: lane.held == replica.held)
        lane.close()


async def test_a_lane_without_the_secret_is_refused() -> None:
    async with serving() as (_, address, _):
        with pytest.raises(ConnectionError):
            await Lane.connect(address._replace(secret=bytes(32)), POOL)


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_server, "_HELLO_S", 0.05)
    async with serving() as (_, address, _):
        lane = await Lane.connect(address, POOL)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        assert (await lane.call(VERSION, batch(1), NOTE)).count == 1
        lane.close()


async def test_calls_beyond_the_most_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_server, "_MOST_CALLS", 2)
    async with serving() as (_, address, replica):
        replica.waits = True
        lane = await Lane.connect(address, POOL)
        calls = [asyncio.ensure_future(lane.call(VERSION, batch(1), NOTE)) for _ in range(3)]
        with pytest.raises(Overloaded):
            await calls[2]
        replica.go.set()
        assert [one.count for one in await asyncio.gather(*calls[:2])] == [1, 1]
        lane.close()
