"""`PoolMember`: one process's part of a pool. It follows the release table and reports what it holds.

A `ModelPool` replica owns one; a gateway replica owns one for each pool that is placed inside it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import asdict
from typing import Any

from ray.serve.handle import DeploymentHandle

from app.deployments.autoscaling import BUSY, ROWS, WAIT_MS
from app.deployments.load_report import report_load
from app.deployments.memory_bound import MemoryBound
from app.deployments.process import memory_bytes, prepare_for_models
from app.deployments.releases import Releases
from app.deployments.rpc import Remote
from app.errors import PoolUnavailable, ServingError
from app.hosting.json_calls import JsonCalls
from app.hosting.model_host import ModelHost
from app.serving.model_spec import ModelSpec
from app.serving.observation import Tracer, batch_attributes, resumed
from app.serving.placement.load import BusyMeter, BusySample, CallNote, Waiting
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.rows import Batch, Output
from app.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_REPORTS_AT_ONCE, _REPORTS_PER_S = 8, 4
"""Reports of a pool that loads and evicts all the time. Each makes `Releases` rebuild the table."""
_GOODBYE_S = 2.0


class PoolMember:
    """A `ModelHost` that holds what the release table assigns to it and reports its state to `Releases`.

    Create it on the event loop. It does nothing before `start`.

    Args:
        name: the pool's name in the settings.
        releases: handle of the `Releases` deployment.
        member_id: unique among the members of all pools.
        tracer: begins a span for each sampled request of a batch; None if there are no traces.
    """

    def __init__(
        self, name: str, settings: Settings, releases: DeploymentHandle, member_id: str, tracer: Tracer | None = None
    ) -> None:
        # Importing MLflow takes seconds and 150 MB: only processes with models pay for it.
        from app.adapters.mlflow.loader import ModelLoader  # noqa: PLC0415
        from app.adapters.mlflow.registry import MlflowRegistry, configure  # noqa: PLC0415
        from app.deployments.workers import Workers  # noqa: PLC0415

        configure(settings)
        prepare_for_models()
        pool = settings.pools[name]
        self.name = name
        self.member_id = member_id
        self._tracer = tracer
        self._releases = Remote(releases, "releases")
        self._changed = asyncio.Event()
        self._watcher: Callable[[], None] = lambda: None
        self._threads = pool.predict_threads
        self._rows = 0
        self._waiting = Waiting(time.monotonic)
        self._meter = BusyMeter(time.monotonic)
        self._scaling_sample = BusySample(self._meter, time.monotonic)
        self._memory = MemoryBound(pool.process_bytes)
        self._workers = Workers(pool.predict_threads + pool.stream_threads, pool.process_bytes, settings)
        self._loader = ModelLoader(
            MlflowRegistry(settings),
            settings.cache_folder,
            settings.model_cache_bytes,
            settings.load_timeout_s,
            workers=self._workers,
            environments=settings.environments,
            signatures=settings.signatures,
            accelerates=settings.accelerates,
        )
        self._host = ModelHost(
            self._loader,
            budget_bytes=pool.model_bytes,
            max_workers=settings.environments.max_workers,
            predict_threads=pool.predict_threads,
            load_threads=pool.load_threads,
            meter=self._meter,
            load_timeout_s=settings.load_timeout_s,
            retry_after_s=settings.failed_load_retry_s,
            changed=self._host_changed,
            end_worker=self._workers.end,
            answer_bytes=settings.limits.answer_bytes,
        )
        self._json_calls = JsonCalls(self._host, pool.stream_threads)
        self._table = ReleaseTable()
        self._warm = asyncio.Event()
        self._resident: frozenset[ModelVersion] = frozenset()
        self._described: set[ModelVersion] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._checks: set[asyncio.Future[None]] = set()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called on the event loop after every load, failure or eviction."""
        self._watcher = changed

    async def start(self) -> None:
        """Follow the release table. Returns when the assigned versions are loaded or `Releases` does not answer."""
        self._changed.set()
        load = report_load(self._releases, self.member_id, self._meter)
        self._tasks = [asyncio.create_task(work) for work in (self._follow(), self._report(), load)]
        await self._warm.wait()

    async def stop(self) -> None:
        """Leave the pool, so that other members take over."""
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._releases.call(Releases.left, self.member_id)
        except (TimeoutError, ServingError) as error:
            log.info("deregistration failed, releases will time this member out: %s", error)
        self._json_calls.close()
        self._host.close()
        self._workers.close()

    async def describe(self, version: ModelVersion) -> ModelSpec:
        return await self._host.describe(version)

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        note: CallNote | None = None,
        *,
        begins: Callable[[], None] | None = None,
    ) -> Output:
        """Predict one batch.

        Args:
            note: the sender's note; None if the sender is this process and has no spans.
            begins: called just before this process runs the model.
        """
        if note is not None:
            self._waiting.note(version, note)
        self._rows += batch.count
        try:
            if note is not None and note.traces:
                with self._span(version, batch.count, note):
                    return await self._host.predict(version, batch, apart=note.apart, begins=begins)
            return await self._host.predict(version, batch, apart=note is not None and note.apart, begins=begins)
        finally:
            self._rows -= batch.count

    async def invoke(self, version: ModelVersion, body: bytes, note: CallNote | None = None) -> bytes:
        """Answer one JSON body."""
        self._rows += 1
        try:
            with self._span(version, 1, note):
                return await self._json_calls.invoke(version, body, apart=note is not None and note.apart)
        finally:
            self._rows -= 1

    async def stream(self, version: ModelVersion, body: bytes, note: CallNote | None = None) -> AsyncGenerator[str]:
        """Answer one JSON body event by event."""
        self._rows += 1
        try:
            with self._span(version, 1, note):
                apart = note is not None and note.apart
                async with aclosing(self._json_calls.stream(version, body, apart=apart)) as events:
                    async for event in events:
                        yield event
        finally:
            self._rows -= 1

    def _span(self, version: ModelVersion, rows: int, note: CallNote | None) -> AbstractContextManager[None]:
        """Return the span of a prediction, with its wait for a thread; also with the load, if there has to be one."""
        if self._tracer is None or note is None or not note.traces:
            return nullcontext()
        return resumed(self._tracer, "predict", note.traces, batch_attributes(version, rows))

    def held(self) -> list[ModelVersion]:
        return self._host.resident

    def scaling_stats(self) -> dict[str, float]:
        """Return the input of the scaling policy: rows queued or in prediction, busy share of threads, oldest wait.

        Always floats: Serve stops asking for good when it gets another type.
        """
        busy = sum(self._scaling_sample.take().values()) / self._threads
        return {
            ROWS: float(self._rows + self._waiting.rows),
            BUSY: float(max(busy, self._json_calls.busy)),
            WAIT_MS: float(self._waiting.oldest_wait_s * 1000),
        }

    def usage(self) -> dict[str, Any]:
        return {
            "replica": self.member_id,
            "deployment": f"ModelPool:{self.name}",
            "rss_bytes": memory_bytes(),
            "models": len(self._host.states()),
            "model_bytes": self._host.residents.nbytes,
            "workers": len(self._host.residents.workers),
            "evictions": self._host.residents.evictions,
            "artifact_cache": asdict(self._loader.cache_counts),
        }

    def check(self) -> None:
        """Raise `PoolUnavailable` if a background task has ended or memory is full."""
        self._memory.check()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                raise PoolUnavailable(f"pool '{self.name}' no longer follows the release table") from task.exception()

    async def _follow(self) -> None:
        loads: set[asyncio.Task[None]] = set()
        while True:
            try:
                before = self._table
                table = await self._releases.call(Releases.watch, before.term, before.epoch, self.member_id)
                self._loader.expect({name: release.created for name, release in table.releases.items()})
                self._apply(table, before)
                self._table = table
                share = table.share(self.name, self.member_id)
                self._resident = share.resident
                # Not awaited: a slow load must not delay the next table.
                load = asyncio.create_task(self._host.keep(share.resident, share.hot))
                loads.add(load)
                load.add_done_callback(loads.discard)
                load.add_done_callback(lambda _: self._warm.set())
                self._changed.set()  # `Releases` may have restarted or missed a report
            except Exception as error:
                trace = None if isinstance(error, ServingError) else error
                log.warning(
                    "release table not read, keeping the last one: retry_s=%g error=%s", _RETRY_S, error, exc_info=trace
                )
                self._changed.set()  # the next `Releases` replica starts without reports
                self._warm.set()  # the assignment is unknown: models load on demand
                await asyncio.sleep(_RETRY_S)

    def _host_changed(self) -> None:
        self._changed.set()
        self._watcher()

    def _apply(self, table: ReleaseTable, before: ReleaseTable) -> None:
        self._host.isolation.of_models(frozenset(name for name, one in table.releases.items() if one.isolated))
        for version in table.suspects - before.suspects:
            self._host.isolation.isolate(version, "a process died while it loaded the version")
        for name in table.renewed(before):
            self._host.release_model(name)
            self._described = {version for version in self._described if version.name != name}
        if table.term != before.term:  # it begins to count, and has no signatures yet
            self._described.clear()
            before = ReleaseTable()
        for version, count in table.unloads.items():
            if count != before.unloads.get(version, 0):
                self._host.release(version)
                check = asyncio.get_running_loop().run_in_executor(None, self._loader.drop_if_deleted, version)
                self._checks.add(check)
                check.add_done_callback(self._checks.discard)
        for version, count in table.retries.items():
            if count != before.retries.get(version, 0):
                self._host.forgive(version)

    async def _report(self) -> None:
        """Report states after each load, failure or eviction."""
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
                # Once per version, and only of versions that may take part in a rollout.
                contracts = self._host.contracts(self._resident - self._described)
                await self._releases.call(
                    Releases.report,
                    self.member_id,
                    self.name,
                    states,
                    contracts,
                    term=self._table.term,
                    orders=self._table.orders(),
                )
                self._described |= contracts.keys()
            except Exception as error:
                log.warning("state report failed, retrying: retry_s=%g error=%s", _RETRY_S, error)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)
