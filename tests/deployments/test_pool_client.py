"""Retries of a batch whose replica died."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from ray.exceptions import ActorDiedError

    from app.deployments.pool_client import PoolClient

from app.errors import ReplicaDied
from app.serving.placement.load import Backlog
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output

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


async def predict(pool: DyingPool, **further: bool) -> Output:
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
