"""`PoolMember`: one process's part in a pool, which follows the release table and says what it holds.

`ModelPool` owns one per replica; a gateway replica owns one for each pool that is placed inside it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict
from typing import Any

from app.deployments.autoscaling import BUSY, ROWS, WAIT_MS
from app.deployments.process import memory_bytes, prepare_for_models
from app.deployments.rpc import Handle, answer
from app.errors import PoolUnavailable, ServingError
from app.hosting.model_host import ModelHost
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import Backlog, BusyMeter, BusySample, CallNote, Waiting
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.rows import Batch, Output
from app.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0
# A pool that loads and evicts all the time has something new many times a second, and each report has `Releases` work
# out the table anew. So many go at once, so many a second.
_REPORTS_AT_ONCE = 8
_REPORTS_PER_S = 4
_WORK_REPORT_S = 5.0
_GOODBYE_S = 2.0


class PoolMember:
    """A `ModelHost` that holds what the release table says, and reports it to `Releases`.

    Made with the event loop running; it does nothing before `start`.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
        member_id: tells this member from all others, of every pool.
    """

    def __init__(self, name: str, settings: Settings, releases: Handle, member_id: str) -> None:
        # Here and not above: importing MLflow takes seconds and 150 MB, which only a process with models shall pay.
        from app.adapters.mlflow.loader import ModelLoader  # noqa: PLC0415
        from app.adapters.mlflow.registry import MlflowRegistry, configure  # noqa: PLC0415

        configure(settings)
        prepare_for_models()
        pool = settings.pools[name]
        self.name = name
        self.member_id = member_id
        self._releases = releases
        self._changed = asyncio.Event()
        self._threads = pool.predict_threads
        self._rows = 0
        self._waiting = Waiting(time.monotonic)
        self._meter = BusyMeter(time.monotonic)
        self._scaling_sample = BusySample(self._meter, time.monotonic)
        self._loader = ModelLoader(
            MlflowRegistry(settings), settings.cache_folder, settings.model_cache_bytes, settings.load_timeout_s
        )
        self._host = ModelHost(
            self._loader,
            budget_bytes=pool.model_bytes,
            predict_threads=pool.predict_threads,
            load_threads=pool.load_threads,
            meter=self._meter,
            load_timeout_s=settings.load_timeout_s,
            retry_after_s=settings.failed_load_retry_s,
            changed=self._changed.set,
        )
        self._kept = asyncio.Event()
        self._resident: frozenset[ModelVersion] = frozenset()
        self._described: set[ModelVersion] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow; returns once what should be held is held, or `Releases` cannot be asked."""
        self._changed.set()
        self._tasks = [asyncio.create_task(work()) for work in (self._follow, self._report, self._report_work)]
        await self._kept.wait()

    async def stop(self) -> None:
        """Leave the pool: others take over what this member held."""
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await answer(self._releases.left.remote(self.member_id), "releases")
        except (TimeoutError, ServingError) as error:
            log.info("the releases were not told that the member ends: %s", error)
        self._host.close()

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """What the version is; it is loaded for that."""
        return await self._host.describe(version)

    async def predict(self, version: ModelVersion, batch: Batch, note: CallNote | None = None) -> Output:
        """Predict one batch.

        Args:
            note: what waits at its sender; None where the sender is this process.
        """
        if note is not None:
            self._waiting.note(version, note)
        self._rows += batch.count
        try:
            return await self._host.predict(version, batch)
        finally:
            self._rows -= batch.count

    def held(self) -> list[ModelVersion]:
        """The versions that calls are answered with at once."""
        return self._host.resident

    def scaling_stats(self) -> dict[str, float]:
        """What autoscaling reads: rows that wait here or are predicted, replicas' worth of busy threads, longest wait.

        Always floats: Serve stops asking for good when it meets another type.
        """
        busy = sum(self._scaling_sample.take().values()) / self._threads
        return {
            ROWS: float(self._rows + self._waiting.rows),
            BUSY: float(busy),
            WAIT_MS: float(self._waiting.oldest_wait_s * 1000),
        }

    def usage(self) -> dict[str, Any]:
        """This process's figures, for `ml-serve status`."""
        return {
            "replica": self.member_id,
            "deployment": f"ModelPool:{self.name}",
            "rss_bytes": memory_bytes(),
            "models": len(self._host.states()),
            "model_bytes": self._host.resident_bytes,
            "evictions": self._host.evictions,
            "artifact_cache": asdict(self._loader.cache_counts),
        }

    def check(self) -> None:
        """Raises `PoolUnavailable` where the releases are no longer followed."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                raise PoolUnavailable(f"pool '{self.name}' no longer follows the releases") from task.exception()

    async def _follow(self) -> None:
        """Hold what the table says, for as long as the process lives."""
        table = ReleaseTable()
        keeping: set[asyncio.Task[None]] = set()
        while True:
            try:
                before = table
                table = await answer(self._releases.watch.remote(table.term, table.epoch, self.member_id), "releases")
                self._loader.expect({name: release.created for name, release in table.releases.items()})
                self._obey(table, before)
                # Not awaited: a slow load must not keep the replica from hearing what comes next.
                share = table.share(self.name, self.member_id)
                self._resident = share.resident
                task = asyncio.create_task(self._host.keep(share.resident, share.hot))
                keeping.add(task)
                task.add_done_callback(keeping.discard)
                task.add_done_callback(lambda _: self._kept.set())
                self._changed.set()  # `Releases` may have begun anew, or have missed a report
            except ServingError as error:
                log.warning("the releases are not read: %s", error.message)
                self._changed.set()  # whoever takes their place knows nothing yet
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
            self._described = {version for version in self._described if version.name != name}
        if table.term != before.term:  # counts of an earlier life say nothing about what is new
            self._described.clear()
            return
        for version, count in table.unloads.items():
            if count != before.unloads.get(version, 0):
                self._host.release(version)
        for version, count in table.retries.items():
            if count != before.retries.get(version, 0):
                self._host.forgive(version)

    async def _report_work(self) -> None:
        """Tell `Releases` how much work each version makes, which gives it more copies or fewer."""
        sample = BusySample(self._meter, time.monotonic)
        told = False
        while True:
            await asyncio.sleep(_WORK_REPORT_S)
            busy = sample.take()
            if not busy and not told:
                continue
            try:
                await answer(self._releases.worked.remote(self.member_id, busy), "releases")
                told = bool(busy)
            except Exception as error:
                log.warning("the releases were not told how much work there is: %s", error)

    async def _report(self) -> None:
        """Tell `Releases` whenever something was loaded, failed or left."""
        allowed, since = float(_REPORTS_AT_ONCE), time.monotonic()
        while True:
            await self._changed.wait()
            now = time.monotonic()
            allowed, since = min(_REPORTS_AT_ONCE, allowed + (now - since) * _REPORTS_PER_S) - 1, now
            if allowed < 0:
                await asyncio.sleep(-allowed / _REPORTS_PER_S)
            self._changed.clear()
            try:
                states = self._host.states()
                # Once for each version that may take part in a switch: others need not be compared.
                contracts = self._host.contracts(self._resident - self._described)
                await answer(self._releases.report.remote(self.member_id, self.name, states, contracts), "releases")
                self._described |= contracts.keys()
            except Exception as error:
                log.warning("the releases were not told what is loaded: %s", error)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)


class MemberRunner:
    """A `ModelRunner` over a member in this process."""

    def __init__(self, member: PoolMember) -> None:
        self._member = member

    async def describe(self, version: ModelVersion) -> ModelSpec:
        return await self._member.describe(version)

    async def predict(self, version: ModelVersion, batch: Batch, backlog: Backlog, *, again: bool = True) -> Output:
        for array in batch.arrays:  # it may be sent again: a model that writes into its input gets a copy
            array.flags.writeable = False
        return await self._member.predict(version, batch)
