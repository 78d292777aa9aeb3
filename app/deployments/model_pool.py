"""`ModelPool`: the deployment whose replicas hold and run models."""

from __future__ import annotations

import asyncio
import logging
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

    The constructor returns when that has been done once, so that Serve sends calls to warm replicas only.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, name: str, settings: Settings, releases: Handle
    ) -> None:
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
        self._kept = asyncio.Event()
        self._changed.set()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._report())]
        await self._kept.wait()

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """What the version is; it is loaded for that."""
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
        """Called by Serve every few seconds."""
        for task in self._tasks:
            if task.done():
                raise PoolUnavailable(f"pool '{self._name}' no longer follows the releases") from task.exception()

    async def _follow(self) -> None:
        """Hold what the table says, for as long as the replica lives."""
        table = ReleaseTable()
        keeping: set[asyncio.Task[None]] = set()
        while True:
            try:
                before = table
                table = await answer(self._releases.watch.remote(table.term, table.epoch, self._replica_id), "releases")
                self._obey(table, before)
                # Not awaited: a slow load must not keep the replica from hearing what comes next.
                task = asyncio.create_task(self._host.keep(table.resident.get(self._name, ())))
                keeping.add(task)
                task.add_done_callback(keeping.discard)
                task.add_done_callback(lambda _: self._kept.set())
                self._changed.set()  # `Releases` may have begun anew, or have missed a report
            except ServingError as error:
                log.warning("the releases are not read: %s", error.message)
                self._kept.set()  # nothing is known of what to hold: models are loaded as they are called
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("the releases are not read")
                self._kept.set()
                await asyncio.sleep(_RETRY_S)

    def _obey(self, table: ReleaseTable, before: ReleaseTable) -> None:
        """Do what is asked for once: unload, try again, forget models whose names mean others now."""
        for name in table.renewed(before):
            self._host.release_model(name)
        if table.term != before.term:  # counts of an earlier life say nothing about what is new
            return
        for version, count in table.unloads.items():
            if count != before.unloads.get(version, 0):
                self._host.release(version)
        for version, count in table.retries.items():
            if count != before.retries.get(version, 0):
                self._host.forgive(version)

    async def _report(self) -> None:
        """Tell `Releases` whenever something was loaded, failed or left."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                states = self._host.states()
                await answer(self._releases.report.remote(self._replica_id, self._name, states), "releases")
            except Exception as error:
                log.warning("the releases were not told what is loaded: %s", error)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)
