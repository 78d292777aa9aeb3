"""`Releases`: the one replica that reads the registry and knows what should be served.

Gateways and pools hold a long poll, `watch`; nobody is pushed to. The bookkeeping is `app.serving.release_book`.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from cachetools import TTLCache
from ray import serve

from app.deployments.calls import answer
from app.deployments.process import configure_logging, memory_bytes
from app.deployments.snapshot import Snapshot
from app.errors import ModelNotFound, ModelUnavailable, RegistryUnavailable, ServingError, Unavailable
from app.serving.model_ref import ModelRef, ModelVersion
from app.serving.pool_load import CallNote
from app.serving.pool_members import EVERYWHERE, PoolPlan
from app.serving.ports import RegisteredModel
from app.serving.release_book import ReleaseBook
from app.serving.release_table import ModelStatus, ReleaseTable, VersionState
from app.serving.single_flight import SingleFlight
from app.settings import PoolSettings, Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_S = 30.0
MEMBER_WATCH_S = 10.0
"""Pool members ask more often: one that is not heard of for twice as long counts as gone."""
_MEMBER_TTL_S = 2.5 * MEMBER_WATCH_S
_MISSING_KEPT = 4096
_SNAPSHOT = "releases.json"


def pool_deployment(pool: str) -> str:
    """Name of the deployment of a pool."""
    return f"ModelPool-{pool}"


def pool_plan(settings: Settings, pool: PoolSettings) -> PoolPlan:
    """What the release book must know of a pool."""
    if pool.placement == "gateway":
        return PoolPlan(copies=EVERYWHERE)
    return PoolPlan(
        copies=pool.copies,
        busy_per_copy=pool.target_busy * pool.predict_threads,
        cold=settings.replicas(pool)[0] == 0,
    )


@serve.deployment
class Releases:
    """Builds the release table from the registry, from callers' loads and from what pools report."""

    def __init__(self, settings: Settings) -> None:
        from app.adapters.mlflow_registry import MlflowRegistry, configure  # noqa: PLC0415 - heavy: only here and in pools

        configure_logging(settings)
        configure(settings)
        self._settings = settings
        self._registry = MlflowRegistry(settings)
        self._registry_error: str | None = "not read yet"
        self._book = ReleaseBook(
            default_alias=settings.default_alias,
            preload=settings.preload,
            pools={name: pool_plan(settings, pool) for name, pool in settings.pools.items()},
            member_ttl_s=_MEMBER_TTL_S,
            term=time.time_ns(),
        )
        self._snapshot = Snapshot(settings.cache_folder / _SNAPSHOT)
        try:
            self._book.restore(self._snapshot.content)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.exception("the snapshot of another release is not understood, and left aside")
        self._book.settle(time.monotonic())
        self._news = asyncio.Condition()
        self._polling: asyncio.Task[None] | None = None
        self._single_reads = 0
        self._missing: TTLCache[ModelRef, ModelNotFound] = TTLCache(_MISSING_KEPT, ttl=settings.registry_poll_s)
        self._reading: SingleFlight[str, RegisteredModel] = SingleFlight()
        self._loading: SingleFlight[tuple[ModelVersion, bool], ModelVersion] = SingleFlight()

    async def watch(self, term: int, epoch: int, member_id: str | None = None) -> ReleaseTable:
        """The table, as soon as it is not the one of this term and epoch, or after a while.

        Args:
            member_id: the pool member that asks, which thereby shows that it lives.

        Raises:
            RegistryUnavailable: nothing is known yet, from the registry or a snapshot; what the caller has is better.
        """
        self._start()
        if member_id is not None:
            self._book.members.heard_of(member_id, time.monotonic())
        try:
            async with asyncio.timeout(WATCH_S if member_id is None else MEMBER_WATCH_S), self._news:
                await self._news.wait_for(
                    lambda: self._book.has_registry and (self._book.table.term, self._book.table.epoch) != (term, epoch)
                )
        except TimeoutError:
            if not self._book.has_registry:
                raise RegistryUnavailable("the model registry has not been read yet") from None
        return self._book.table

    async def report(self, member_id: str, pool: str, states: Mapping[ModelVersion, VersionState]) -> None:
        """What a pool member holds now."""
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

    async def resolve(self, ref: ModelRef) -> ModelVersion | ModelNotFound:
        """The version that a reference means, asked of the registry where neither table nor pools know it.

        What does not exist is remembered until the next poll, so that asking for it again and again costs nothing. It
        is returned and not raised: Serve writes a traceback into the log for whatever a replica raises.
        """
        try:
            return await self._resolve(ModelRef(*ref))
        except ModelNotFound as error:
            return ModelNotFound(error.message, error.details)

    async def _resolve(self, ref: ModelRef) -> ModelVersion:
        known = self._book.table.resolve(ref)
        if known is not None:
            return known
        if ref.pinned is not None and self._book.members.holds(ref.pinned):
            return ref.pinned
        missing: ModelNotFound | None = self._missing.get(ref)
        if missing is not None:
            raise copy.copy(missing)
        try:
            return await self._ask_for(ref)
        except ModelNotFound as error:
            self._missing[ref] = error
            raise

    async def _ask_for(self, ref: ModelRef) -> ModelVersion:
        pinned = ref.pinned
        if pinned is not None and await self._read(lambda: self._registry.has_version(pinned)):
            if ref.name not in self._book.table.releases:  # what is served is followed, or its renewal would be missed
                await self._read_model(ref.name)
            return pinned
        try:
            model = await self._read_model(ref.name)
        except ModelNotFound as error:
            close = difflib.get_close_matches(ref.name, self._book.table.releases, n=1)
            if not close:
                raise
            raise ModelNotFound(f"{error.message}; did you mean '{close[0]}'?", error.details) from None
        known = self._book.table.resolve(ref)
        if known is None:
            what = f"version {ref.version}" if ref.version else f"alias '{ref.alias}'" if ref.alias else "version"
            details = {"model": ref.name, "aliases": dict(model.aliases)}
            raise ModelNotFound(f"model '{ref.name}' has no {what} that is ready", details)
        return known

    async def load(self, ref: ModelRef, promote: bool) -> ModelVersion:
        """Make a version resident; returns when every member of its pool has it that should hold it.

        A reference that follows an alias means the version that the registry names, whatever answers now. The work is
        done whether or not the caller waits for it.
        """
        ref = ModelRef(*ref)
        version = await self._resolve(ref)
        model = await self._read_model(version.name)
        if ref.pinned is None:
            wanted = self._book.desired(model).get(ref.alias or "")
            version = ModelVersion(version.name, wanted) if wanted is not None else version
        return await self._loading.do((version, promote), partial(self._load, version, model, promote))

    async def _load(self, version: ModelVersion, model: RegisteredModel, promote: bool) -> ModelVersion:
        pool = self._book.pool_of(model)
        if pool not in self._settings.pools:
            pools = ", ".join(self._settings.pools)
            raise ModelUnavailable(
                f"model '{version.name}' belongs to pool '{pool}', which is not configured: "
                f"set its tag serving.pool to one of {pools}"
            )
        self._book.pin(version)
        await self._publish()
        if self._book.members.is_asleep(pool):
            await self._wake(pool, version)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s + WATCH_S), self._news:
                await self._news.wait_for(lambda: self._book.state(version) in ("ready", "failed"))
        except TimeoutError:
            raise ModelUnavailable(f"{version} was not loaded within {self._settings.load_timeout_s:g} s") from None
        if self._book.state(version) == "failed":
            cause = self._book.members.error(version) or f"{version} cannot be loaded; the log has the cause"
            self._book.unpin(version)
            await self._publish()
            raise ModelUnavailable(cause, {"model": version.name, "version": version.version})
        if promote:
            alias = self._settings.default_alias
            await self._read(lambda: self._registry.set_alias(version.name, alias, version.version))
            self._book.unpin(version)  # from here on the alias keeps it
            await self._read_model(version.name)
        return version

    async def _wake(self, pool: str, version: ModelVersion) -> None:
        """Have a pool at zero replicas start one: a call for the version does that."""
        handle = serve.get_deployment_handle(pool_deployment(pool), serve.get_replica_context().app_name)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                await answer(handle.describe.remote(version, CallNote()), f"pool '{pool}'")
        except (TimeoutError, ServingError) as error:
            log.warning("pool '%s' does not wake up with %s: %s", pool, version, error)

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Let a version go on all replicas."""
        ref = ModelRef(*ref)
        version = ref.pinned or await self._resolve(ref)
        if not self._book.members.holds(version):
            version = await self._resolve(ref)  # raises where there is no such version
        self._book.let_go(version)
        await self._publish()
        return version

    async def status(self) -> Sequence[ModelStatus]:
        """Every registered model."""
        self._start()
        return self._book.status()

    async def model(self, name: str) -> ModelStatus | ModelNotFound:
        """One registered model. What does not exist is returned, as by `resolve`."""
        if name not in self._book.table.releases:
            found = await self.resolve(ModelRef(name))  # it may have been registered since
            if isinstance(found, ModelNotFound):
                return found
        return self._book.status_of(name)

    async def health(self) -> dict[str, Any]:
        """State of the registry and of what should be loaded."""
        self._start()
        failed = [f"{version}: {error}" for version, error in sorted(self._book.members.failures.items())]
        registry = (
            {"status": "unavailable", "reason": self._registry_error} if self._registry_error else {"status": "ok"}
        )
        return {
            "registry": registry,
            "models": {"status": "degraded", "failed": failed} if failed else {"status": "ok"},
        }

    async def usage(self) -> dict[str, Any]:
        """This replica's own figures."""
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "deployment": "Releases", "rss_bytes": memory_bytes()}

    async def check_health(self) -> None:
        """Called by Serve: starts the polling, and fails when it has ended."""
        self._start()
        if self._polling is not None and self._polling.done():
            raise Unavailable("the registry is no longer polled") from self._polling.exception()

    def _start(self) -> None:
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            try:
                await self._poll_once()
            except ServingError as error:
                log.warning("the registry is not read; what is known stays in force: %s", error.message)
            except Exception:
                log.exception("the registry is not read; what is known stays in force")
            await self._publish()
            await asyncio.sleep(self._settings.registry_poll_s)

    async def _poll_once(self) -> None:
        before = self._single_reads
        models = await self._read(self._registry.models)
        if before == self._single_reads:  # else one model was read meanwhile, and this answer may be older than that
            self._book.registry_read(models)

    async def _read_model(self, name: str) -> RegisteredModel:
        """One model as the registry has it now, entered in the book and published."""
        model = await self._reading.do(name, lambda: self._read(lambda: self._registry.model(name)))
        self._single_reads += 1
        self._book.model_read(model)
        await self._publish()
        return model

    async def _read(self, work: Callable[[], T]) -> T:
        """Run registry work in a thread; remember whether the registry answers."""
        try:
            result = await asyncio.to_thread(work)
        except RegistryUnavailable as error:
            self._registry_error = error.message
            raise
        self._registry_error = None
        return result

    async def _publish(self) -> None:
        """After the book has changed."""
        await self._settle()
        await self._snapshot.write(self._book.snapshot())

    async def _settle(self) -> None:
        """After a member's state has changed, of which the snapshot holds only what follows from it."""
        changed = self._book.settle(time.monotonic())
        async with self._news:  # also when the table has not changed: `load` waits for states
            self._news.notify_all()
        if changed:
            await self._snapshot.write(self._book.snapshot())
