"""Versions that callers want in memory: asked of the pools through the release table, and waited for.

Used by `app.deployments.releases`, and for what is promoted or gone back to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from ray import serve

from app.control.registry_sync import RegistryReader
from app.control.resolver import ReferenceResolver
from app.deployments.pools import pool_deployment
from app.deployments.rpc import answer
from app.errors import ModelUnavailable, RegistryUnavailable, ServingError
from app.serving.placement.load import CallNote
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.alias_state import BARE
from app.serving.releases.reconciler import ReleaseBook
from app.serving.single_flight import SingleFlight
from app.settings import Settings

log = logging.getLogger(__name__)

_SLACK_S = 30.0
"""Seconds beyond the time for a load: the table has to reach the pool, and what the pool says to come back."""


class VersionLoads:
    """Not thread-safe: it lives on the event loop of `Releases`.

    Args:
        book: what should be in memory, and what is.
        reader: the registry.
        resolver: says what references mean.
        settings: the pools, and how long a load may take.
        news: notified whenever the pools have something new.
        changed: awaited after each change of the book.
    """

    def __init__(
        self,
        book: ReleaseBook,
        reader: RegistryReader,
        resolver: ReferenceResolver,
        settings: Settings,
        *,
        news: asyncio.Condition,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._book = book
        self._reader = reader
        self._resolver = resolver
        self._settings = settings
        self._news = news
        self._changed = changed
        self._loading: SingleFlight[ModelVersion, ModelVersion] = SingleFlight()

    async def load(self, ref: ModelRef) -> ModelVersion:
        """Have a version resident, and wait for it. Raises as `Releases.load` returns."""
        version = await self._resolver.resolve(ref)
        try:
            model = await self._reader.model(version.name)
        except RegistryUnavailable:
            if version.name not in self._book.models:
                raise
            model = self._book.models[version.name]
        if ref.pinned is None:
            wanted = self._book.desired(model).get(ref.alias or BARE)
            version = ModelVersion(version.name, wanted) if wanted is not None else version
        return await self._loading.do(version, partial(self._load, version))

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Let a version go on all replicas. Raises `ModelNotFound` where there is none."""
        version = ref.pinned or await self._resolver.resolve(ref)
        if not self._book.knows(version):
            version = await self._resolver.resolve(ref)  # raises where there is no such version
        self._book.let_go(version)
        await self._changed()
        return version

    async def wait(self, version: ModelVersion) -> None:
        """Return once a version that should be resident is. Raises `ModelUnavailable` with the cause."""
        pool = self._pool_of(version)
        if self._book.members.is_asleep(pool):
            await self._wake(pool, version)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s + _SLACK_S), self._news:
                await self._news.wait_for(
                    lambda: self._book.state(version) in ("ready", "failed") or self._book.has_let_go(version)
                )
        except TimeoutError:
            raise ModelUnavailable(f"{version} was not loaded within {self._settings.load_timeout_s:g} s") from None
        if self._book.has_let_go(version):
            raise ModelUnavailable(f"{version} was unloaded meanwhile", {"model": version.name})
        if self._book.state(version) == "failed":
            cause = self._book.members.error(version) or f"{version} cannot be loaded; the log has the cause"
            raise ModelUnavailable(cause, {"model": version.name, "version": version.version})

    async def _load(self, version: ModelVersion) -> ModelVersion:
        self._pool_of(version)
        self._book.pin(version)
        await self._changed()
        try:
            await self.wait(version)
        except ModelUnavailable:
            if self._book.state(version) == "failed":
                self._book.unpin(version)
                await self._changed()
            raise
        return version

    def _pool_of(self, version: ModelVersion) -> str:
        """The pool that hosts a version. Raises `ModelUnavailable` where it is not configured."""
        pool = self._book.tags(version.name).pool
        if pool not in self._settings.pools:
            pools = ", ".join(self._settings.pools)
            raise ModelUnavailable(
                f"model '{version.name}' belongs to pool '{pool}', which is not configured: "
                f"set its tag serving.pool to one of {pools}"
            )
        return pool

    async def _wake(self, pool: str, version: ModelVersion) -> None:
        """Have a pool at zero replicas start one: a call for the version does that."""
        handle = serve.get_deployment_handle(pool_deployment(pool), serve.get_replica_context().app_name)
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                await answer(handle.describe.remote(version, CallNote()), f"pool '{pool}'")
        except (TimeoutError, ServingError) as error:
            log.warning("pool '%s' does not wake up with %s: %s", pool, version, error)
