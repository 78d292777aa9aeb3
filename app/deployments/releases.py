"""`Releases`: the one replica that reads the registry and knows what should be served.

Gateways and pools hold a long poll, `watch`; nobody is pushed to. The bookkeeping is `app.serving.release_book`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ray import serve

from app.deployments.process import configure_logging, memory_bytes
from app.errors import ModelNotFound, ModelUnavailable, RegistryUnavailable, ServingError, Unavailable
from app.serving.model_ref import ModelRef, ModelVersion
from app.serving.release_book import ReleaseBook
from app.serving.release_table import ModelStatus, ReleaseTable, VersionState
from app.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

_WATCH_S = 30.0
_SNAPSHOT = "releases.json"


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
            pools=list(settings.pools),
            term=time.time_ns(),
        )
        self._snapshot = settings.cache_folder / _SNAPSHOT
        self._news = asyncio.Condition()
        self._polling: asyncio.Task[None] | None = None
        self._written: dict[str, Any] = _read(self._snapshot)
        self._book.restore(self._written)

    async def watch(self, term: int, epoch: int, replica_id: str | None = None) -> ReleaseTable:
        """The table, as soon as it is not the one of this term and epoch, or after 30 s.

        Args:
            replica_id: the pool replica that asks, which thereby shows that it lives.
        """
        self._start()
        if replica_id is not None:
            self._book.heard_of(replica_id, time.monotonic())
        try:
            async with asyncio.timeout(_WATCH_S), self._news:
                await self._news.wait_for(lambda: (self._book.table.term, self._book.table.epoch) != (term, epoch))
        except TimeoutError:
            pass
        return self._book.table

    async def report(self, replica_id: str, pool: str, states: Mapping[ModelVersion, VersionState]) -> None:
        """What a pool replica holds now."""
        named = {ModelVersion(*version): state for version, state in states.items()}
        self._book.reported(replica_id, pool, named, time.monotonic())
        await self._publish()

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that a reference means, asked of the registry where the table does not say."""
        ref = ModelRef(*ref)
        known = self._book.table.resolve(ref)
        if known is not None:
            return known
        if ref.version is not None:
            version = ModelVersion(ref.name, ref.version)
            if not await self._read(lambda: self._registry.has_version(version)):
                await self._read(lambda: self._registry.model(ref.name))  # raises where there is no such model at all
                raise ModelNotFound(f"model '{ref.name}' has no version {ref.version}", {"model": ref.name})
            return version
        model = await self._read(lambda: self._registry.model(ref.name))
        self._book.model_read(model)
        await self._publish()
        known = self._book.table.resolve(ref)
        if known is None:
            what = f"alias '{ref.alias}'" if ref.alias else "version that is ready"
            raise ModelNotFound(
                f"model '{ref.name}' has no {what}", {"model": ref.name, "aliases": dict(model.aliases)}
            )
        return known

    async def load(self, ref: ModelRef, promote: bool) -> ModelVersion:
        """Make a version resident; returns when every replica of its pool has it."""
        version = await self.resolve(ref)
        model = await self._read(lambda: self._registry.model(version.name))
        self._book.model_read(model)
        pool = self._book.pool_of(model)
        if pool not in self._settings.pools:
            raise ModelUnavailable(f"model '{version.name}' belongs to pool '{pool}', which is not configured")
        self._book.pin(version)
        await self._publish()
        try:
            async with asyncio.timeout(self._settings.load_timeout_s), self._news:
                await self._news.wait_for(lambda: self._book.state(version) in ("ready", "failed"))
        except TimeoutError:
            raise ModelUnavailable(f"{version} was not loaded within {self._settings.load_timeout_s:g} s") from None
        if self._book.state(version) == "failed":
            cause = self._book.error(version) or "the log has the cause"
            self._book.let_go(version)
            await self._publish()
            raise ModelUnavailable(cause, {"model": version.name, "version": version.version})
        if promote:
            await self._read(
                lambda: self._registry.set_alias(version.name, self._settings.default_alias, version.version)
            )
            self._book.model_read(await self._read(lambda: self._registry.model(version.name)))
            await self._publish()
        return version

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Let a version go on all replicas."""
        version = await self.resolve(ref)
        self._book.let_go(version)
        await self._publish()
        return version

    async def status(self) -> Sequence[ModelStatus]:
        """Every registered model."""
        self._start()
        return self._book.status()

    async def health(self) -> dict[str, Any]:
        """State of the registry and of what should be loaded."""
        self._start()
        failed = [
            f"{model.name}/versions/{number}: {facts['error']}"
            for model in self._book.status()
            for number, facts in model.versions.items()
            if facts["state"] == "failed"
        ]
        return {
            "registry": {"status": "ok"} if self._registry_error is None else _down(self._registry_error),
            "models": {"status": "degraded", "failed": failed} if failed else {"status": "ok"},
            "ready": self._book.table.ready,
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
                self._book.registry_read(await self._read(self._registry.models))
            except ServingError as error:
                log.warning("the registry is not read; what is known stays in force: %s", error.message)
            await self._publish()
            await asyncio.sleep(self._settings.registry_poll_s)

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
        changed = self._book.settle(time.monotonic())
        async with self._news:  # also when only a replica's state has changed: `load` waits for those
            self._news.notify_all()
        if changed and (snapshot := json.loads(json.dumps(self._book.snapshot()))) != self._written:
            self._written = snapshot
            await asyncio.to_thread(_write, self._snapshot, snapshot)


def _down(reason: str) -> dict[str, str]:
    return {"status": "unavailable", "reason": reason}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _write(path: Path, snapshot: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(snapshot, indent=1))
        partial.replace(path)
    except OSError:
        log.exception("%s cannot be written: a restart without a registry would not know what to serve", path)
