"""`ModelPool`: the deployment whose replicas hold and run models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ray import serve

from app.deployments.calls import Handle, answer
from app.deployments.model_host import ModelHost
from app.deployments.process import configure_logging, memory_bytes
from app.errors import PoolUnavailable, ServingError
from app.serving.model_ref import ModelVersion
from app.serving.ports import ModelSpec
from app.serving.release_table import ReleaseTable
from app.serving.tables import Batch, Output
from app.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0


@serve.deployment
class ModelPool:
    """One replica of a pool. It follows the release table: what should be resident is loaded, and reported when it is.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
    """

    def __init__(self, name: str, settings: Settings, releases: Handle) -> None:
        # Here and not above: importing MLflow takes seconds and 150 MB, which only this process shall pay.
        from app.adapters.mlflow_registry import MlflowRegistry, configure  # noqa: PLC0415
        from app.adapters.model_loader import ModelLoader  # noqa: PLC0415

        configure_logging(settings)
        configure(settings)
        pool = settings.pools[name]
        self._name = name
        self._releases = releases
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._changed = asyncio.Event()
        self._host = ModelHost(
            ModelLoader(MlflowRegistry(settings), settings.cache_folder),
            budget_bytes=pool.model_bytes,
            predict_threads=pool.predict_threads,
            load_timeout_s=settings.load_timeout_s,
            retry_after_s=settings.failed_load_retry_s,
            changed=self._changed.set,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """What the version is; it is loaded for that."""
        self._start()
        return await self._host.describe(ModelVersion(*version))

    async def predict(self, version: ModelVersion, batch: Batch) -> Output:
        """Predict one batch."""
        return await self._host.predict(ModelVersion(*version), batch)

    async def usage(self) -> dict[str, Any]:
        """This replica's own figures, for `ml-serve status`."""
        return {
            "replica": self._replica_id,
            "deployment": f"ModelPool:{self._name}",
            "rss_bytes": memory_bytes(),
            "models": len(self._host.states()),
            "model_bytes": self._host.resident_bytes,
            "evictions": self._host.evictions,
        }

    async def check_health(self) -> None:
        """Called by Serve every few seconds, first right after the constructor: it starts what needs the event loop."""
        self._start()
        for task in self._tasks:
            if task.done():
                raise PoolUnavailable(f"pool '{self._name}' no longer follows the releases") from task.exception()

    def _start(self) -> None:
        if not self._tasks:
            self._changed.set()
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._report())]

    async def _follow(self) -> None:
        """Hold what the table says, for as long as the replica lives."""
        term = epoch = 0
        released = frozenset[ModelVersion]()
        retries: Mapping[ModelVersion, int] = {}
        loading: set[asyncio.Task[None]] = set()
        while True:
            try:
                table: ReleaseTable = await answer(
                    self._releases.watch.remote(term, epoch, self._replica_id), "releases"
                )
            except ServingError as error:
                log.warning("the releases are not read: %s", error.message)
                await asyncio.sleep(_RETRY_S)
                continue
            if table.term != term:  # `Releases` has begun anew and has not heard of this replica yet
                self._changed.set()
            term, epoch = table.term, table.epoch
            for version in table.let_go - released:
                self._host.release(version)
            released = table.let_go
            for version in table.retries:
                if table.retries[version] != retries.get(version, 0):
                    self._host.forgive(version)
            retries = table.retries
            # Not awaited: a slow load must not keep the replica from hearing what comes next.
            task = asyncio.create_task(self._host.keep(table.resident.get(self._name, ())))
            loading.add(task)
            task.add_done_callback(loading.discard)

    async def _report(self) -> None:
        """Tell `Releases` whenever something was loaded, failed or left."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                states = self._host.states()
                await answer(self._releases.report.remote(self._replica_id, self._name, states), "releases")
            except ServingError as error:
                log.warning("the releases were not told what is loaded: %s", error.message)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)
