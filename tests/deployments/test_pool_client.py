"""Retries of a batch whose replica died."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable
from typing import Any, cast

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from ray.exceptions import ActorDiedError

    from app.deployments.pool_client import PoolClient

from app.errors import ModelFailed, ReplicaDied
from app.serving.placement.load import Backlog, CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output, Rows, stack

VERSION = ModelVersion("prices", "2")
ANSWER = Output("tensor", (), (np.array([1.0]),), 1)


class DyingPool:
    """A pool's handle; the first `deaths` calls kill their replica."""

    def __init__(self, deaths: int) -> None:
        self._deaths = deaths
        self.calls = 0

    def options(self, **_: Any) -> DyingPool:
        return self

    def remote(self, version: ModelVersion, batch: Batch, note: Any) -> Awaitable[Output]:
        self.calls += 1
        return self._answer(dies=self.calls <= self._deaths)

    async def _answer(self, *, dies: bool) -> Output:
        if dies:
            raise ActorDiedError
        return ANSWER


async def predict(pool: DyingPool, **further: Any) -> Output:
    batch = Batch(Layout("columns", ("a",), ("float64",), ((),)), (np.array([1.0]),), 1)
    return await PoolClient("default", pool, lambda _: 1).predict(VERSION, batch, Backlog(), **further)


async def test_a_batch_is_retried_once_after_its_replica_died() -> None:
    pool = DyingPool(deaths=1)
    assert await predict(pool) is ANSWER
    assert pool.calls == 2


async def test_a_batch_that_killed_two_replicas_is_not_sent_again() -> None:
    pool = DyingPool(deaths=2)
    with pytest.raises(ReplicaDied):
        await predict(pool)
    assert pool.calls == 2


async def test_a_shadow_batch_is_not_retried_after_its_replica_died() -> None:
    pool = DyingPool(deaths=1)
    with pytest.raises(ReplicaDied):
        await predict(pool, again=False)
    assert pool.calls == 1


class DyingLanes:
    """Lanes to replicas, which die of the calls with these numbers; tells which calls wanted a worker."""

    def __init__(self, *deaths: int, began: bool = True) -> None:
        self._deaths = deaths
        self._began = began
        self.apart: list[bool] = []

    def choose(self, version: ModelVersion, copies: int) -> DyingLanes:
        return self

    async def call(self, version: ModelVersion, batch: Batch, note: CallNote) -> Output:
        self.apart.append(note.apart)
        if len(self.apart) in self._deaths:
            death = ReplicaDied("a replica died")
            death.began = self._began
            raise death
        return ANSWER


async def predict_over(lanes: DyingLanes, times: int = 1) -> list[bool]:
    """Predict and return for each call over the lanes whether it wanted a worker."""
    client = PoolClient("default", DyingPool(0), lambda _: 1, cast(Any, lanes))
    batch = Batch(Layout("columns", ("a",), ("float64",), ((),)), (np.array([1.0]),), 1)
    for _ in range(times):
        assert await client.predict(VERSION, batch, Backlog()) is ANSWER
    return lanes.apart


async def test_a_batch_that_a_dead_replica_ran_goes_to_a_worker() -> None:
    assert await predict_over(DyingLanes(1)) == [False, True]


async def test_a_batch_that_a_dead_replica_had_not_begun_does_not() -> None:
    assert await predict_over(DyingLanes(1, began=False)) == [False, False]


async def test_a_version_that_answered_often_is_trusted_once() -> None:
    often = [False] * 20
    assert await predict_over(DyingLanes(21), times=21) == [*often, False, False]
    assert await predict_over(DyingLanes(21, 22), times=21) == [*often, False, False, True]
    assert await predict_over(DyingLanes(21, 24), times=23) == [*often, False, False, False, False, True]


async def test_a_batch_that_kills_its_worker_is_not_sent_again() -> None:
    lanes = DyingLanes(1, 2)
    with pytest.raises(ReplicaDied):
        await predict_over(lanes)
    assert lanes.apart == [False, True]


class SeenPool(DyingPool):
    """A pool's handle that keeps the options of its calls."""

    def __init__(self) -> None:
        super().__init__(deaths=0)
        self.given: list[dict[str, Any]] = []

    def options(self, **given: Any) -> DyingPool:
        self.given.append(given)
        return self


async def test_large_values_inside_objects_travel_by_reference() -> None:
    pool = SeenPool()
    client = PoolClient("default", pool, lambda _: 1)
    for value in (["x"] * 10, ["x" * 100_000] * 30):
        await client.predict(VERSION, stack([Rows(Layout("list", (), ("object",), ((),)), ([value],), 1)]), Backlog())
    small, large = pool.given
    assert "_by_reference" not in small
    assert large["_by_reference"] is True


class DyingStreams:
    """A pool's handle whose streams give these items in turn; the death of a replica is raised."""

    def __init__(self, *streams: list[Any]) -> None:
        self._streams = list(streams)
        self.cancelled = 0
        self.given: dict[str, Any] = {}

    def options(self, **given: Any) -> DyingStreams:
        self.given = given
        return self

    def remote(self, *_: Any) -> DyingStream:
        return DyingStream(self, self._streams.pop(0))


class DyingStream:
    def __init__(self, pool: DyingStreams, items: list[Any]) -> None:
        self._pool, self._items = pool, items

    def __aiter__(self) -> DyingStream:
        return self

    async def __anext__(self) -> Any:
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if isinstance(item, ActorDiedError):
            raise item
        return item

    def cancel(self) -> None:
        self._pool.cancelled += 1


async def events(pool: DyingStreams) -> list[str]:
    return [event async for event in PoolClient("default", pool, lambda _: 1).stream(VERSION, b"{}")]


async def test_a_stream_is_called_as_one() -> None:
    pool = DyingStreams(["a", "b"])
    assert await events(pool) == ["a", "b"]
    assert pool.given["stream"] is True
    assert pool.given["method_name"] == "stream"


async def test_a_stream_is_retried_before_its_first_event() -> None:
    assert await events(DyingStreams([ActorDiedError()], ["a"])) == ["a"]
    with pytest.raises(ReplicaDied):
        await events(DyingStreams([ActorDiedError()], [ActorDiedError()], ["a"]))


async def test_a_stream_is_not_retried_after_its_first_event() -> None:
    stream = PoolClient("default", DyingStreams(["a", ActorDiedError()], ["a"]), lambda _: 1).stream(VERSION, b"{}")
    assert await anext(stream) == "a"
    with pytest.raises(ReplicaDied):
        await anext(stream)


async def test_an_error_that_the_replica_sent_is_raised() -> None:
    stream = PoolClient("default", DyingStreams(["a", ModelFailed("it raised")]), lambda _: 1).stream(VERSION, b"{}")
    assert await anext(stream) == "a"
    with pytest.raises(ModelFailed, match="it raised"):
        await anext(stream)


async def test_closing_a_stream_cancels_the_call() -> None:
    pool = DyingStreams(["a", "b"])
    stream = PoolClient("default", pool, lambda _: 1).stream(VERSION, b"{}")
    assert await anext(stream) == "a"
    assert pool.cancelled == 0
    await stream.aclose()
    assert pool.cancelled == 1
