"""Client of `Releases`: the `Directory` and `ModelManager` of a gateway replica."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Concatenate

from cachetools import LRUCache
from ray.serve.handle import DeploymentHandle

from app.deployments.features import Features
from app.deployments.pool_client import PoolClient
from app.deployments.pool_lanes import PoolLanes
from app.deployments.releases import Releases
from app.deployments.remotes import RemotePool, gateways, statistics
from app.deployments.rpc import P, Remote, T, raised
from app.errors import ModelUnavailable, PoolUnavailable, ReplicaDied, ServingError, Unavailable
from app.metrics.lanes import LaneMetrics
from app.serving.batching.limits import NO_OVERRIDES, BatchOverrides
from app.serving.comparison.statistics import Statistics
from app.serving.ports import ModelRunner
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.table import ModelStatus, ReleaseTable, Switch
from app.serving.releases.traffic import Traffic, TrafficPlan

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_HEALTH_S = 5.0
_GOODBYE_S = 2.0


class ReleaseFollower:
    """Follows the release table by long poll, and passes orders to `Releases`.

    Args:
        own: runners of the pools inside this process.
        followed: called with the last table and each new one.
        lanes: the metrics of lanes; None where batches travel over Serve's handle only.
    """

    def __init__(
        self,
        releases: DeploymentHandle,
        pools: Mapping[str, DeploymentHandle],
        features: DeploymentHandle | None,
        own: Mapping[str, ModelRunner],
        followed: Callable[[ReleaseTable, ReleaseTable], None],
        *,
        lanes: LaneMetrics | None = None,
    ) -> None:
        self._releases = Remote(releases, "the release table")
        self._followed = followed
        self._gateway_id = uuid.uuid4().hex
        self._pools = {name: Remote(handle, f"pool '{name}'") for name, handle in pools.items()}

        def copies(version: ModelVersion) -> int:
            return self._table.copies_of(version)

        self._lanes = {name: PoolLanes(name, handle, lanes) for name, handle in pools.items()} if lanes else {}
        clients = {name: PoolClient(name, handle, copies, self._lanes.get(name)) for name, handle in pools.items()}
        self._runners: dict[str, ModelRunner] = {**clients, **own}
        self._features = Remote(features, "the feature store") if features is not None else None
        self._table = ReleaseTable()
        self._was_ready = False
        self._pinned: LRUCache[ModelVersion, ModelVersion] = LRUCache(maxsize=4096)
        self._task: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to follow; needs a running event loop."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following, and deregister, so that rollouts stop waiting for this replica."""
        for task in (self._task, *self._telling):
            if task is not None:
                task.cancel()
        for lanes in self._lanes.values():
            lanes.close()
        with suppress(Exception):
            async with asyncio.timeout(_GOODBYE_S):
                await self._releases.call(Releases.gateway_left, self._gateway_id)

    def check(self) -> None:
        """Raise `Unavailable` where the task that follows the table has ended."""
        if self._task is not None and self._task.done():
            raise Unavailable("the gateway no longer follows the release table")

    @property
    def ready(self) -> bool:
        """Whether the table was ready once: a pool replica that starts later does not matter."""
        self._was_ready = self._was_ready or self._table.ready
        return self._was_ready

    def known(self, ref: ModelRef) -> ModelVersion | None:
        if ref.version is not None:
            return self._pinned.get(ModelVersion(ref.name, ref.version))
        return self._table.resolve(ref)

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        version = await self._ask(Releases.resolve, ref)
        if ref.version is not None:
            self._pinned[version] = version
        return version

    def batch_overrides(self, name: str) -> BatchOverrides:
        release = self._table.releases.get(name)
        return release.batch if release is not None else NO_OVERRIDES

    def contradiction(self, version: ModelVersion) -> str | None:
        return self._table.contradictions.get(version)

    def contradicted(self, version: ModelVersion, reason: str) -> None:
        log.warning("version is not row-wise, predicting its requests one by one: model=%s reason=%s", version, reason)
        task = asyncio.get_running_loop().create_task(self._tell(version, reason), context=Context())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def traffic(self, name: str) -> Traffic | None:
        release = self._table.releases.get(name)
        return release.traffic if release is not None else None

    def runner(self, name: str) -> ModelRunner:
        pool = self._table.pool_of(name)
        runner = self._runners.get(pool)
        if runner is None:
            raise ModelUnavailable(
                f"model '{name}' belongs to pool '{pool}', which is not configured: set its tag serving.pool"
            )
        return runner

    async def load(self, ref: ModelRef) -> ModelVersion:
        return await self._ask(Releases.load, ref)

    async def unload(self, ref: ModelRef) -> ModelVersion:
        return await self._ask(Releases.unload, ref)

    async def promote(self, version: ModelVersion, *, alias: str | None = None, force: bool = False) -> Switch:
        return await self._ask(Releases.promote, version, alias, force)

    async def rollback(self, name: str, *, alias: str | None = None) -> Switch:
        return await self._ask(Releases.rollback, name, alias)

    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        return await self._ask(Releases.set_traffic, name, plan)

    async def status(self) -> Sequence[ModelStatus]:
        return await self._ask(Releases.status)

    async def model(self, name: str) -> ModelStatus:
        return await self._ask(Releases.model, name)

    async def statistics(self, version: ModelVersion) -> Statistics:
        return await statistics(version)

    async def health(self) -> Mapping[str, Any]:
        states = [_state(self._releases.call(Releases.health), "the release table")]
        called = {name: pool for name, pool in self._pools.items() if name not in self._table.cold_pools}
        states += [_state(pool.call(RemotePool.usage), f"pool '{name}'") for name, pool in called.items()]
        if self._features is not None:
            states.append(_state(self._features.call(Features.check), "the feature store"))
        releases, *behind = await asyncio.gather(*states)
        features = behind.pop() if self._features is not None else {"status": "ok", "reason": "not configured"}
        down = {name: state["reason"] for name, state in zip(called, behind, strict=True) if state["status"] != "ok"}
        pools = {"status": "unavailable", "reason": down} if down else {"status": "ok"}
        features.pop("answer", None)
        found = releases.get("answer") or {"registry": releases}
        return {**found, "pools": pools, "feature_store": features}

    async def usage(self) -> list[dict[str, Any]]:
        # A call would wake a pool that has scaled to zero.
        pools = [pool for name, pool in self._pools.items() if self._table.members.get(name)]
        deployments = [gateways(), self._releases, *pools, *([self._features] if self._features else [])]
        return [usage for each in deployments for usage in await each.broadcast(RemotePool.usage)]

    async def _ask(
        self,
        method: Callable[Concatenate[Any, P], Awaitable[T | ServingError]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            return raised(await self._releases.call(method, *args, **kwargs))
        except (PoolUnavailable, ReplicaDied) as error:
            raise Unavailable(error.message) from error

    async def _tell(self, version: ModelVersion, reason: str) -> None:
        is_told = False
        while not is_told:
            try:
                await self._releases.call(Releases.contradicted, version, reason)
                is_told = True
            except Exception as error:
                log.warning("contradiction not reported, retrying: retry_s=%g error=%s", _RETRY_S, error)
                await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        while True:
            try:
                known = self._table
                table = await self._releases.call(Releases.watch, known.term, known.epoch, gateway_id=self._gateway_id)
                renewed = table.renewed(known)
                self._table = table
                for version in [one for one in self._pinned if one.name in renewed or _unloaded(one, known, table)]:
                    del self._pinned[version]  # it may be deleted: the next call asks
                for name, lanes in self._lanes.items():
                    lanes.follow(table.members.get(name, ()))
                self._followed(known, table)
            except ServingError as error:
                log.warning("failed to get the release table, keeping the last one: %s", error.message)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("failed to get the release table, keeping the last one")
                await asyncio.sleep(_RETRY_S)


def _unloaded(version: ModelVersion, before: ReleaseTable, table: ReleaseTable) -> bool:
    return table.unloads.get(version, 0) != before.unloads.get(version, 0)


async def _state(response: Awaitable[Any], part: str) -> dict[str, Any]:
    """Return the health of a part, with its answer where it answers in time."""
    try:
        async with asyncio.timeout(_HEALTH_S):
            return {"status": "ok", "answer": await response}
    except TimeoutError:
        return {"status": "unavailable", "reason": f"{part} does not answer within {_HEALTH_S:g} s"}
    except ServingError as error:
        return {"status": "unavailable", "reason": error.message}
