"""Loads and unloads versions on request: pools follow the release table, and callers wait for their reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from app.control.loop import ControlLoop
from app.control.registry_sync import RegistrySync
from app.control.resolver import ReferenceResolver
from app.errors import ModelUnavailable, RegistryUnavailable
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.alias_state import BARE
from app.serving.releases.release_state import ReleaseState
from app.serving.releases.rollout import load_error
from app.serving.single_flight import SingleFlight

_SLACK_S = 30.0
"""Seconds beyond the time for a load: for the table to reach the pool, and for the pool's report to come back."""


class VersionLoads:
    """Loads and unloads versions. Not thread-safe.

    Args:
        load_timeout_s: seconds that a load may take.
        wake: starts a replica of a pool at zero replicas, by a call for the version.
    """

    def __init__(
        self,
        loop: ControlLoop,
        registry: RegistrySync,
        resolver: ReferenceResolver,
        *,
        load_timeout_s: float,
        wake: Callable[[str, ModelVersion], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._resolver = resolver
        self._load_timeout_s = load_timeout_s
        self._wake = wake
        self._loading: SingleFlight[ModelVersion, ModelVersion] = SingleFlight()

    async def load(self, ref: ModelRef) -> ModelVersion:
        """Keep a version resident, and return once it is loaded. Raises as `ModelManager.load`.

        An alias means the version that the registry names, not the live one. The load continues when the caller
        leaves. Without the registry, the last known state counts.
        """
        version = await self._resolver.resolve(ref)
        try:
            await self._registry.model(version.name)
        except RegistryUnavailable:
            if version.name not in self._loop.state.models:
                raise
        if ref.pinned is None:
            desired = self._loop.state.alias(version.name, ref.alias or BARE)
            version = ModelVersion(version.name, desired.desired) if desired is not None else version
        return await self._loading.do(version, partial(self._load, version))

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Have all members drop a version. Raises `ModelNotFound` where it does not exist."""
        version = ref.pinned or await self._resolver.resolve(ref)
        state = self._loop.state
        if version not in state.observed.requests.resident and not state.members.states(version):
            version = await self._resolver.resolve(ref)  # raises where there is no such version
        await self._loop.observe(lambda observed: observed.unload(version))
        return version

    async def wait(self, version: ModelVersion) -> None:
        """Return once a resident version is loaded and its contract known. Raises `ModelUnavailable` with the cause."""
        pool = self._pool_of(version)
        if self._loop.state.members.is_asleep(pool):
            await self._wake(pool, version)

        def is_over(state: ReleaseState) -> bool:
            unloaded = version in state.observed.requests.unloaded
            known = self._loop.clock().monotonic >= state.reunion_until
            loaded = state.members.state(version)
            return unloaded or (
                known and (loaded == "failed" or (loaded == "ready" and version in state.observed.contracts))
            )

        try:
            await self._loop.until(is_over, self._load_timeout_s + _SLACK_S)
        except TimeoutError:
            raise ModelUnavailable(f"{version} was not loaded within {self._load_timeout_s:g} s") from None
        if version in self._loop.state.observed.requests.unloaded:
            raise ModelUnavailable(f"{version} was unloaded meanwhile", {"model": version.name})
        if self._has_failed(version):
            cause = load_error(self._loop.state.members, version)
            raise ModelUnavailable(cause, {"model": version.name, "version": version.version})

    async def _load(self, version: ModelVersion) -> ModelVersion:
        self._pool_of(version)
        await self._loop.observe(lambda observed: observed.pin(version))
        try:
            await self.wait(version)
        except ModelUnavailable:
            if self._has_failed(version):
                await self._loop.observe(lambda observed: replace(observed, requests=observed.requests.unpin(version)))
            raise
        return version

    def _has_failed(self, version: ModelVersion) -> bool:
        return self._loop.state.members.state(version) == "failed"

    def _pool_of(self, version: ModelVersion) -> str:
        """Return the pool that hosts a version. Raises `ModelUnavailable` where it is not configured."""
        pool = self._loop.state.tags_of(version.name).pool
        if pool not in self._loop.settings.pools:
            pools = ", ".join(self._loop.settings.pools)
            raise ModelUnavailable(
                f"model '{version.name}' belongs to pool '{pool}', which is not configured: "
                f"set its tag serving.pool to one of {pools}"
            )
        return pool
