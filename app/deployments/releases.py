"""`Releases`: the one replica that reads the registry and publishes what is served.

Gateways and pools hold a long poll, `watch`; nothing is pushed to them. `app.serving.releases.reconciler` decides, and
`app.control` reads, writes and waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ray import serve

from app.control.auto_rollback import AutoRollback
from app.control.loads import VersionLoads
from app.control.loop import ControlLoop
from app.control.promotions import Promotions
from app.control.registry_sync import RegistrySync
from app.control.resolver import ReferenceResolver
from app.control.snapshot import Snapshot
from app.control.state_tags import write_live_tags
from app.deployments.pools import pool_deployment, pool_plan
from app.deployments.process import configure_logging, memory_bytes
from app.deployments.remotes import RemotePool, statistics
from app.deployments.rpc import Remote, returns_errors
from app.errors import RegistryUnavailable, ServingError, Unavailable
from app.imports import without
from app.serving.placement.load import CallNote
from app.serving.placement.states import VersionState
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.observed import Contract
from app.serving.releases.release_state import ReleaseSettings
from app.serving.releases.status import every_status, release_health, status_of
from app.serving.releases.table import ModelStatus, ReleaseTable, Switch
from app.serving.releases.traffic import TrafficPlan
from app.settings import Settings

log = logging.getLogger(__name__)

WATCH_S = 30.0
MEMBER_WATCH_S = 4.0
"""Pool members poll more often: a rollout waits for a silent member until it counts as gone."""
_MEMBER_TTL_S = 2.5 * MEMBER_WATCH_S
_GATEWAY_TTL_S = 1.5 * WATCH_S


class Releases:
    """Builds the release table from the registry, from callers' requests and from reports of pool members."""

    def __init__(self, settings: Settings) -> None:
        from app.adapters.mlflow.registry import MlflowRegistry, configure  # noqa: PLC0415 - heavy: only here and in pools

        configure_logging(settings)
        with without("pandas"):  # 49 MB, and MLflow's registry does not use it
            configure(settings)
        self._settings = settings
        self._began = time.monotonic()
        self._loop = ControlLoop(
            ReleaseSettings(
                default_alias=settings.default_alias,
                preload=settings.preload,
                pools={name: pool_plan(settings, pool) for name, pool in settings.pools.items()},
                member_ttl_s=_MEMBER_TTL_S,
                keep_previous_s=settings.keep_previous_s,
                serves=settings.serves,
            ),
            Snapshot(settings.snapshot_file),
            term=time.time_ns(),
            gateway_ttl_s=_GATEWAY_TTL_S,
        )
        self._registry = RegistrySync(MlflowRegistry(settings), self._loop, settings.registry_poll_s)
        self._resolver = ReferenceResolver(self._loop, self._registry, missing_s=settings.registry_poll_s)
        self._loads = VersionLoads(
            self._loop, self._registry, self._resolver, load_timeout_s=settings.longest_load_s, wake=self._wake
        )
        self._promotions = Promotions(
            self._loop, self._registry, read_only=settings.registry_read_only, warm=self._loads.wait
        )
        self._auto_rollback = AutoRollback(
            self._loop, self._registry, self._promotions, statistics, watched_s=settings.keep_previous_s
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def watch(
        self, term: int, epoch: int, member_id: str | None = None, gateway_id: str | None = None
    ) -> ReleaseTable:
        """Return the table as soon as it is not the one of this term and epoch, or after a while.

        Args:
            member_id: the pool member that polls; the poll shows that it is alive.
            gateway_id: the gateway replica that polls; the poll shows which table it answers by.

        Raises:
            RegistryUnavailable: neither the registry nor a snapshot was read; the caller keeps its table.
        """
        self._start()
        loop = self._loop
        if gateway_id is not None:
            await loop.gateway_has(gateway_id, epoch if term == loop.state.table.term else -1)
        try:
            # A replica that lived through a restart keeps its last table until the others have reported: it would take
            # itself for the only one and begin to load every model.
            if term not in (0, loop.state.table.term):
                await asyncio.sleep(self._began + loop.settings.reunion_s - time.monotonic())
            if member_id is not None:
                loop.note(lambda observed: observed.heard_of(member_id, time.monotonic()))
            await loop.until(
                lambda state: (
                    state.observed.models is not None and (state.table.term, state.table.epoch) != (term, epoch)
                ),
                WATCH_S if member_id is None else MEMBER_WATCH_S,
            )
        except TimeoutError:
            if loop.state.observed.models is None:
                raise RegistryUnavailable("the model registry has not been read yet") from None
        except asyncio.CancelledError:  # the caller has died: no rollout waits for it. If it lives it reports again
            if member_id is not None:
                await self._loop.observe(lambda observed: observed.died(member_id))
            if gateway_id is not None:
                await self.gateway_left(gateway_id)
            raise
        return loop.state.table

    async def report(
        self,
        member_id: str,
        pool: str,
        states: Mapping[ModelVersion, VersionState],
        contracts: Mapping[ModelVersion, Contract] = MappingProxyType({}),
        *,
        term: int = 0,
        orders: Mapping[ModelVersion, int] = MappingProxyType({}),
    ) -> None:
        """Take over what a pool member holds now.

        Args:
            contracts: signatures of versions that should be resident, each reported once.
            term: term of the table that the member follows.
            orders: `ReleaseTable.orders` of that table; of another term they count nothing.
        """
        done = orders if term == self._loop.state.table.term else {}
        await self._loop.observe(
            lambda observed: observed.reported(member_id, pool, states, contracts, orders=done, now=time.monotonic())
        )

    async def worked(self, member_id: str, busy: Mapping[ModelVersion, float]) -> None:
        """Take over the prediction threads that each version kept busy on a pool member, on average."""
        self._loop.note(lambda observed: observed.heard_of(member_id, time.monotonic(), busy))

    async def left(self, member_id: str) -> None:
        """Drop a pool member that ends."""
        await self._loop.observe(lambda observed: observed.left(member_id))

    async def contradicted(self, version: ModelVersion, reason: str) -> None:
        """Have no gateway replica batch a version that turned out not to be row-wise."""
        await self._loop.observe(lambda observed: observed.contradicted(version, reason))

    async def gateway_left(self, gateway_id: str) -> None:
        """Drop a gateway replica that ends, so that rollouts stop waiting for it."""
        await self._loop.gateway_left(gateway_id)

    # Orders of callers, as in `ModelManager` and `Directory`. They return our errors instead of raising them.

    @returns_errors
    async def resolve(self, ref: ModelRef) -> ModelVersion:
        return await self._resolver.resolve(ref)

    @returns_errors
    async def load(self, ref: ModelRef) -> ModelVersion:
        return await self._loads.load(ref)

    @returns_errors
    async def unload(self, ref: ModelRef) -> ModelVersion:
        return await self._loads.unload(ref)

    @returns_errors
    async def promote(self, version: ModelVersion, alias: str | None, force: bool) -> Switch:
        return await self._promotions.promote(version, alias or self._settings.default_alias, force=force)

    @returns_errors
    async def rollback(self, name: str, alias: str | None) -> Switch:
        return await self._promotions.rollback(name, alias or self._settings.default_alias)

    @returns_errors
    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        await self._promotions.set_traffic(name, plan)
        return status_of(self._loop.state, name, self._settings.default_alias)

    async def status(self) -> Sequence[ModelStatus]:
        self._start()
        return every_status(self._loop.state, self._settings.default_alias)

    @returns_errors
    async def model(self, name: str) -> ModelStatus:
        if name not in self._loop.state.models:
            await self._resolver.resolve(ModelRef(name))  # it may have been registered since
        return status_of(self._loop.state, name, self._settings.default_alias)

    async def health(self) -> dict[str, Any]:
        """Return the health of the registry and of the models that should be loaded."""
        self._start()
        return release_health(self._loop.state, self._registry.error)

    async def usage(self) -> dict[str, Any]:
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": "Releases", "rss_bytes": memory_bytes()}

    async def check_health(self) -> None:
        """Start polling, and fail when a background task has ended. Called by Serve."""
        self._start()
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise Unavailable("a background task of Releases has ended") from task.exception()

    def _start(self) -> None:
        if not self._tasks:
            work = [self._registry.poll()]
            if not self._settings.registry_read_only:
                work += [write_live_tags(self._loop, self._registry), self._auto_rollback.run()]
            self._tasks = [asyncio.create_task(one) for one in work]

    async def _wake(self, pool: str, version: ModelVersion) -> None:
        handle = serve.get_deployment_handle(pool_deployment(pool), serve.get_replica_context().app_name)
        try:
            async with asyncio.timeout(self._settings.longest_load_s):
                await Remote(handle, f"pool '{pool}'").call(RemotePool.describe, version, CallNote())
        except (TimeoutError, ServingError) as error:
            log.warning("failed to wake pool '%s' with %s: %s", pool, version, error)
