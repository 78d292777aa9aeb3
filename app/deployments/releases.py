"""`Releases`: the one replica that reads the registry and knows what should be served.

Gateways and pools hold a long poll, `watch`; nobody is pushed to. The bookkeeping is `app.serving.releases.reconciler`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ray import serve

from app.control.acknowledgements import GatewayEpochs
from app.control.auto_rollback import RollbackWatch
from app.control.loads import VersionLoads
from app.control.promotions import ReleaseWriter
from app.control.registry_sync import RegistryReader
from app.control.resolver import ReferenceResolver
from app.control.snapshot import Snapshot
from app.control.state_tags import LiveTags
from app.deployments.pools import pool_deployment, pool_plan
from app.deployments.process import configure_logging, memory_bytes
from app.deployments.release_client import statistics
from app.deployments.remotes import RemotePool
from app.deployments.rpc import Remote, returns_errors
from app.errors import RegistryUnavailable, ServingError, Unavailable
from app.serving.placement.load import CallNote
from app.serving.placement.states import VersionState
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.rollout import Contract
from app.serving.releases.status import every_status, release_health, status_of
from app.serving.releases.table import ModelStatus, ReleaseTable, Switch
from app.serving.releases.traffic import TrafficPlan
from app.settings import Settings

log = logging.getLogger(__name__)

WATCH_S = 30.0
MEMBER_WATCH_S = 4.0
"""Pool members ask more often: one that is not heard of for more than twice as long counts as gone, and a switch waits
for it until then."""
_REUNION_S = 3.0
"""Seconds after a restart in which those who have lived through it go on by their last table. Until pool members have
reported, each of them would take itself for the only one, and begin to load all there is."""
_MEMBER_TTL_S = 2.5 * MEMBER_WATCH_S
_ACKNOWLEDGED_S = 5.0


@serve.deployment
class Releases:
    """Builds the release table from the registry, from callers' loads and from what pools report.

    The registry is read by a `RegistryReader` and written to by a `ReleaseWriter`.
    """

    def __init__(self, settings: Settings) -> None:
        from app.adapters.mlflow.registry import MlflowRegistry, configure  # noqa: PLC0415 - heavy: only here and in pools

        configure_logging(settings)
        configure(settings)
        self._settings = settings
        self._began = time.monotonic()
        self._book = ReleaseBook(
            default_alias=settings.default_alias,
            preload=settings.preload,
            pools={name: pool_plan(settings, pool) for name, pool in settings.pools.items()},
            member_ttl_s=_MEMBER_TTL_S,
            keep_previous_s=settings.keep_previous_s,
            term=time.time_ns(),
        )
        self._snapshot = Snapshot(settings.snapshot_file)
        try:
            self._book.restore(self._snapshot.content)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.exception("the snapshot of another release is not understood, and left aside")
        self._book.settle(time.monotonic())
        self._reader = RegistryReader(MlflowRegistry(settings), self._book, self._publish, settings.registry_poll_s)
        self._resolver = ReferenceResolver(self._book, self._reader, missing_s=settings.registry_poll_s)
        self._news = asyncio.Condition()
        self._loads = VersionLoads(
            self._book,
            self._reader,
            self._resolver,
            pools=tuple(settings.pools),
            load_timeout_s=settings.load_timeout_s,
            wake=self._wake,
            news=self._news,
            changed=self._publish,
        )
        self._writer = ReleaseWriter(
            self._book,
            self._reader,
            read_only=settings.registry_read_only,
            warm=self._loads.wait,
            published=self._tell_everywhere,
        )
        self._live_tags = LiveTags(self._book, self._writer)
        self._rollbacks = RollbackWatch(self._book, self._writer, statistics, watched_s=settings.keep_previous_s)
        self._switched = asyncio.Event()
        self._gateways = GatewayEpochs(1.5 * WATCH_S)
        self._tasks: list[asyncio.Task[None]] = []

    async def watch(
        self, term: int, epoch: int, member_id: str | None = None, gateway_id: str | None = None
    ) -> ReleaseTable:
        """The table, as soon as it is not the one of this term and epoch, or after a while.

        Args:
            member_id: the pool member that asks, which thereby shows that it lives.
            gateway_id: the gateway replica that asks, which thereby shows what it answers by.

        Raises:
            RegistryUnavailable: nothing is known yet, from the registry or a snapshot; what the caller has is better.
        """
        self._start()
        if gateway_id is not None:
            self._gateways.heard_of(gateway_id, epoch if term == self._book.table.term else -1)
            async with self._news:
                self._news.notify_all()
        try:
            if term not in (0, self._book.table.term):
                await asyncio.sleep(self._began + _REUNION_S - time.monotonic())
            if member_id is not None:
                self._book.members.heard_of(member_id, time.monotonic())
            async with asyncio.timeout(WATCH_S if member_id is None else MEMBER_WATCH_S), self._news:
                await self._news.wait_for(
                    lambda: self._book.has_registry and (self._book.table.term, self._book.table.epoch) != (term, epoch)
                )
        except TimeoutError:
            if not self._book.has_registry:
                raise RegistryUnavailable("the model registry has not been read yet") from None
        except asyncio.CancelledError:  # who asked has died: no switch waits for it. Where it lives it reports again
            if member_id is not None:
                await self.left(member_id)
            if gateway_id is not None:
                await self.gateway_left(gateway_id)
            raise
        return self._book.table

    async def report(
        self,
        member_id: str,
        pool: str,
        states: Mapping[ModelVersion, VersionState],
        contracts: Mapping[ModelVersion, Contract] = MappingProxyType({}),
    ) -> None:
        """What a pool member holds now.

        Args:
            contracts: of versions that should be resident, each told once.
        """
        for version, contract in contracts.items():
            self._book.switches.described(ModelVersion(*version), Contract(*contract))
        named = {ModelVersion(*version): state for version, state in states.items()}
        self._book.members.reported(member_id, pool, named, time.monotonic())
        await self._settle()

    async def worked(self, member_id: str, busy: Mapping[ModelVersion, float]) -> None:
        """Prediction threads that each version has kept busy on a pool member, on average since it last said so."""
        self._book.members.worked(member_id, {ModelVersion(*version): share for version, share in busy.items()})

    async def left(self, member_id: str) -> None:
        """A pool member ends."""
        self._book.members.left(member_id)
        await self._publish()

    async def gateway_left(self, gateway_id: str) -> None:
        """A gateway replica ends: nobody waits for it any more."""
        self._gateways.left(gateway_id)
        async with self._news:
            self._news.notify_all()

    # What callers ask for returns our errors, and does not raise them.

    @returns_errors
    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that a reference means, asked of the registry where neither table nor pools know it."""
        return await self._resolver.resolve(ModelRef(*ref))

    @returns_errors
    async def load(self, ref: ModelRef) -> ModelVersion:
        """Make a version resident; returns when every member of its pool has it that should hold it.

        A reference that follows an alias means the version that the registry names, whatever answers now. The work is
        done whether or not the caller waits for it. Without the registry, what is known of it does.
        """
        return await self._loads.load(ModelRef(*ref))

    @returns_errors
    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Let a version go on all replicas."""
        return await self._loads.unload(ModelRef(*ref))

    @returns_errors
    async def promote(self, version: ModelVersion, alias: str | None, force: bool) -> Switch:
        """Move an alias to a version, as `ModelManager.promote` says."""
        return await self._writer.promote(ModelVersion(*version), alias or self._settings.default_alias, force=force)

    @returns_errors
    async def rollback(self, name: str, alias: str | None) -> Switch:
        """Move an alias back, as `ModelManager.rollback` says."""
        return await self._writer.rollback(name, alias or self._settings.default_alias)

    @returns_errors
    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        """Divide the calls to a bare name, as `ModelManager.set_traffic` says."""
        await self._writer.set_traffic(name, plan)
        return status_of(self._book, name)

    async def status(self) -> Sequence[ModelStatus]:
        """Every registered model."""
        self._start()
        return every_status(self._book)

    @returns_errors
    async def model(self, name: str) -> ModelStatus:
        """One registered model."""
        if name not in self._book.models:
            await self._resolver.resolve(ModelRef(name))  # it may have been registered since
        return status_of(self._book, name)

    async def health(self) -> dict[str, Any]:
        """State of the registry and of what should be loaded."""
        self._start()
        return release_health(self._book, self._reader.error)

    async def usage(self) -> dict[str, Any]:
        """This replica's own figures."""
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": "Releases", "rss_bytes": memory_bytes()}

    async def check_health(self) -> None:
        """Called by Serve: starts the polling, and fails when it has ended."""
        self._start()
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise Unavailable("the registry is no longer followed") from task.exception()

    def _start(self) -> None:
        if not self._tasks:
            work = [self._reader.poll()]
            if not self._settings.registry_read_only:
                work += [self._live_tags.follow(self._switched), self._rollbacks.run()]
            self._tasks = [asyncio.create_task(one) for one in work]

    async def _wake(self, pool: str, version: ModelVersion) -> None:
        handle = serve.get_deployment_handle(pool_deployment(pool), serve.get_replica_context().app_name)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                await Remote(handle, f"pool '{pool}'").call(RemotePool.describe, version, CallNote())
        except (TimeoutError, ServingError) as error:
            log.warning("pool '%s' does not wake up with %s: %s", pool, version, error)

    async def _publish(self) -> None:
        """After the book has changed."""
        await self._work_out_table()
        await self._snapshot.write(self._book.snapshot())

    async def _settle(self) -> None:
        """After a member's state has changed, of which the snapshot holds only what follows from it."""
        if await self._work_out_table():
            await self._snapshot.write(self._book.snapshot())

    async def _work_out_table(self) -> bool:
        """Whether it is another one now; who waits for it, or for a state, is told."""
        changed = self._book.settle(time.monotonic())
        self._switched.set()
        async with self._news:  # also when the table has not changed: `load` waits for states
            self._news.notify_all()
        return changed

    async def _tell_everywhere(self) -> None:
        """Publish, and return once every gateway answers by it, or one has not been heard of for too long."""
        await self._publish()
        epoch = self._book.table.epoch
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_S), self._news:
                await self._news.wait_for(lambda: self._gateways.have_reached(epoch))
        except TimeoutError:
            log.warning("a gateway replica has not taken table %d within %g s", epoch, _ACKNOWLEDGED_S)
