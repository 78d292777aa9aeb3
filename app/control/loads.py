"""Versions that callers want in memory: asked of the pools through the release table, and waited for.

Used by `app.deployments.releases`, and for what is promoted or gone back to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from app.control.registry_sync import RegistryReader
from app.control.resolver import ReferenceResolver
from app.errors import ModelUnavailable, RegistryUnavailable
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.alias_state import BARE
from app.serving.releases.reconciler import ReleaseBook
from app.serving.single_flight import SingleFlight

_SLACK_S = 30.0
"""Seconds beyond the time for a load: the table has to reach the pool, and what the pool says to come back."""


class VersionLoads:
    """Not thread-safe: it lives on the event loop of `Releases`.

    Args:
        book: what should be in memory, and what is.
        reader: the registry.
        resolver: says what references mean.
        pools: names of the configured pools.
        load_timeout_s: seconds that a load may take.
        wake: has a pool at zero replicas start one, by a call for the version.
        news: notified whenever the pools have something new.
        changed: awaited after each change of the book.
    """

    def __init__(
        self,
        book: ReleaseBook,
        reader: RegistryReader,
        resolver: ReferenceResolver,
        *,
        pools: Sequence[str],
        load_timeout_s: float,
        wake: Callable[[str, ModelVersion], Awaitable[None]],
        news: asyncio.Condition,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._book = book
        self._reader = reader
        self._resolver = resolver
        self._pools = pools
        self._load_timeout_s = load_timeout_s
        self._wake = wake
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
            async with asyncio.timeout(self._load_timeout_s + _SLACK_S), self._news:
                await self._news.wait_for(
                    lambda: self._book.state(version) in ("ready", "failed") or self._book.has_let_go(version)
                )
        except TimeoutError:
            raise ModelUnavailable(f"{version} was not loaded within {self._load_timeout_s:g} s") from None
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
        if pool not in self._pools:
            pools = ", ".join(self._pools)
            raise ModelUnavailable(
                f"model '{version.name}' belongs to pool '{pool}', which is not configured: "
                f"set its tag serving.pool to one of {pools}"
            )
        return pool
