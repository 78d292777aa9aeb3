"""Reads of features over lanes, from a gateway's client to real lane servers that a handle names."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from app.deployments import feature_lanes
    from app.deployments.feature_client import FeatureClient
    from app.deployments.feature_lanes import FeatureLanes

from app.errors import FeatureStoreUnavailable
from app.lanes.server import LaneAddress, LaneServer
from app.serving.features import FeatureQuery, FeatureRows
from app.serving.observation import TraceCarrier

QUERY = FeatureQuery("prices", None)
ENTITIES = [{"id": 7}, {"id": 8}]


class Replica:
    """A replica of `Features`: answers its name, and counts its reads, which wait for `go`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reads = 0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.server = LaneServer(self.read, "the feature store")
        self.address: LaneAddress | None = None

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier]
    ) -> FeatureRows:
        self.reads += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return FeatureRows({"by": [self.name] * len(entities)}, [True] * len(entities))


class Handle:
    """The handle of `Features`: every replica tells its address; reads are answered by ``handle``."""

    def __init__(self) -> None:
        self.addresses: list[LaneAddress | None] = []
        self.read = self

    def broadcast(self, method: str) -> Handle:
        assert method == "lane_address"
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        return self.addresses

    async def remote(self, query: FeatureQuery, entities: Sequence[Any], traces: Sequence[TraceCarrier]) -> FeatureRows:
        return FeatureRows({"by": ["handle"] * len(entities)}, [True] * len(entities))


class Store:
    def __init__(self) -> None:
        self.handle = Handle()
        self.lanes = FeatureLanes(self.handle)
        self.client = FeatureClient(self.handle, self.lanes)
        self.replicas: list[Replica] = []

    async def add(self) -> Replica:
        replica = Replica(str(len(self.replicas) + 1))
        replica.address = await replica.server.start(replica.name, "127.0.0.1")
        self.replicas.append(replica)
        self.handle.addresses.append(replica.address)
        return replica

    async def read(self) -> str:
        """Return who answered."""
        rows = await self.client.read(QUERY, ENTITIES)
        assert rows.found == [True, True]
        (name,) = {*rows.columns["by"]}
        return str(name)

    async def open(self) -> Replica:
        """Add a replica, and wait for its lane."""
        replica = await self.add()
        await until(lambda: self.lanes.choose() is not None and len(replica.server.lanes) == 1)
        return replica


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_lanes, "_RETRY_S", 0.01)
    monkeypatch.setattr(feature_lanes, "_LOOK_S", 0.01)


@asynccontextmanager
async def store() -> AsyncIterator[Store]:
    found = Store()
    try:
        yield found
    finally:
        found.lanes.close()
        for replica in found.replicas:
            await replica.server.stop(0)


async def test_reads_take_the_handle_until_a_lane_is_open() -> None:
    async with store() as found:
        assert await found.read() == "handle"
        replica = await found.open()
        assert await found.read() == "1"
        assert replica.reads == 1


async def test_a_replica_that_starts_later_gets_reads_too() -> None:
    async with store() as found:
        first = await found.open()
        first.go.clear()
        waiting = asyncio.ensure_future(found.read())
        await until(lambda: first.server.ongoing == 1)
        await found.open()
        assert await found.read() == "2"
        first.go.set()
        assert await waiting == "1"


async def test_a_read_on_a_replica_that_dies_is_repeated() -> None:
    async with store() as found:
        replica = await found.open()
        replica.go.clear()
        waiting = asyncio.ensure_future(found.read())
        await until(lambda: replica.server.ongoing == 1)
        found.handle.addresses.clear()
        await replica.server.stop(0)
        assert await waiting == "handle"
        assert await found.read() == "handle"


async def test_a_draining_replica_gets_no_further_reads() -> None:
    async with store() as found:
        replica = await found.open()
        replica.go.clear()
        waiting = asyncio.ensure_future(found.read())
        await until(lambda: replica.server.ongoing == 1)
        found.handle.addresses.clear()
        stopping = asyncio.ensure_future(replica.server.stop(10))
        await until(lambda: found.lanes.choose() is None)
        assert await found.read() == "handle"
        replica.go.set()
        assert await waiting == "1"
        await stopping


async def test_an_error_of_the_store_is_raised_as_it_is() -> None:
    async with store() as found:
        replica = await found.open()
        replica.error = FeatureStoreUnavailable("feature view 'prices' cannot be read from the feature store now")
        with pytest.raises(FeatureStoreUnavailable, match="cannot be read"):
            await found.read()


async def test_a_replica_that_cannot_be_reached_leaves_the_handle() -> None:
    async with store() as found:
        replica = await found.add()
        await replica.server.stop(0)
        for _ in range(5):
            assert await found.read() == "handle"
            await asyncio.sleep(0.01)
