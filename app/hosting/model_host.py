"""Model versions in one process: loaded on demand, kept within a byte budget, predicted in a few threads.

`app.deployments.pool_member` owns one `ModelHost` per process and pool. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from app.errors import ReplicaDied
from app.hosting.abandoned_calls import AbandonedCalls
from app.hosting.answer_bound import check_answer
from app.hosting.isolation import Isolation
from app.hosting.loads import Loads
from app.hosting.model import Loader
from app.hosting.residents import Resident, Residents
from app.hosting.shared_threads import SharedThreads
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import BusyMeter
from app.serving.placement.states import VersionState
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.releases.observed import Contract
from app.serving.rows import Batch, Output

log = logging.getLogger(__name__)

T = TypeVar("T")


class ModelHost:
    """The versions that one replica holds.

    Versions load independently, so a slow load blocks no other version; concurrent callers of a version await the same
    load. A version in use is never evicted.

    Args:
        loader: loads versions.
        budget_bytes: memory of all resident versions together; beyond it the least recently used are evicted.
        max_workers: processes of all resident versions together, besides this one; beyond it the same.
        predict_threads: concurrent predictions; slow ones of one version leave room for those of others.
        load_threads: concurrent loads; slow ones leave room for others.
        meter: measures the busy time of the prediction threads.
        load_timeout_s: seconds after which a load fails.
        retry_after_s: seconds for which a failed load is answered from memory.
        changed: called after every change of `states`.
        end_worker: ends the worker process with a key, with all its calls.
        answer_bytes: most bytes of an answer of this process; workers bound theirs themselves.

    Attributes:
        abandoned: watches calls whose callers have left.
        isolation: versions in workers of their own.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        budget_bytes: int,
        max_workers: int = 8,
        predict_threads: int,
        load_threads: int = 2,
        meter: BusyMeter | None = None,
        load_timeout_s: float = 300.0,
        retry_after_s: float = 15.0,
        changed: Callable[[], None] = lambda: None,
        end_worker: Callable[[str], None] = lambda _: None,
        answer_bytes: int = 2**26,
    ) -> None:
        self._loader = loader
        self.answer_bytes = answer_bytes
        self._changed = changed
        self._meter = meter or BusyMeter(time.monotonic)
        self.residents = Residents(budget_bytes, max_workers)
        self._loads = Loads(
            loader,
            self.residents,
            threads=load_threads,
            timeout_s=load_timeout_s,
            retry_after_s=retry_after_s,
            changed=changed,
        )
        self._hot: frozenset[ModelVersion] = frozenset()
        self.isolation = Isolation(loader, self._loads, self.residents, end_worker, changed)
        self.abandoned = AbandonedCalls(self.isolation.stuck)
        self._predict_threads = SharedThreads(predict_threads, "predict")

    @property
    def resident(self) -> list[ModelVersion]:
        """The loaded versions."""
        return list(self.residents)

    def states(self) -> dict[ModelVersion, VersionState]:
        """Return the state of every version that is loaded, loading or failed."""
        states = self._loads.states()
        for version in self.residents.crowded_out:
            states[version] = VersionState(
                "failed", "evicted: the pool's model_bytes or max_workers cannot hold all its versions"
            )
        for version, (model, _) in self.residents.items():
            states[version] = VersionState(
                "ready",
                None,
                model.spec.nbytes,
                model.spec.load_ms,
                model.spec.batching,
                model.problem,
                isolation=model.spec.isolation,
                accelerator=model.spec.accelerator,
            )
        return states

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """Load the version if needed and return its spec.

        Raises:
            ModelUnavailable, ModelNotFound, RegistryUnavailable: from the loader, or the load timed out.
        """
        return (await self._loads.get(version)).model.spec

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        *,
        apart: bool = False,
        begins: Callable[[], None] | None = None,
    ) -> Output:
        """Predict a batch: short predictions on the event loop, others in a thread.

        Args:
            apart: whether a process of its own has to hold the version, because another one ended during this batch.
            begins: called just before this process, not a worker, runs the model.

        Raises:
            ModelFailed: the model raised.
            ModelUnavailable, ModelNotFound, RegistryUnavailable: as `describe`.
        """
        self.residents.hold(version)  # before the load, so that no eviction follows it
        try:
            resident = await (self.isolation.apart(version) if apart else self._loads.get(version))
            if resident.model.worker:
                begins = None
            try:
                # Never beside a thread: a pool with one thread promises its models one call at a time.
                if self._predict_threads.idle and resident.short_calls.is_short(batch.count):
                    if begins is not None:
                        begins()
                    output = self._run(version, resident, batch, on_loop=True)
                else:
                    run = partial(self._run, version, resident, batch, on_loop=False)
                    left = partial(self.abandoned.add, version, resident.model)
                    output = await self._predict_threads.run(version, run, begins=begins, left=left)
            except ReplicaDied:
                self.isolation.worker_died(version, resident)
                raise
            self.isolation.answered(version)
            return output
        finally:
            self.residents.let_go(version)

    async def in_thread(self, version: ModelVersion, call: Callable[[], T], left: Callable[[Future[T]], None]) -> T:
        """Run a blocking call to a version in a prediction thread. `left` is called if the caller leaves meanwhile."""
        return await self._predict_threads.run(version, call, left=left)

    @asynccontextmanager
    async def using(self, version: ModelVersion, *, apart: bool = False) -> AsyncIterator[Model]:
        """Load a version if needed and keep it from being evicted. Raises as `describe`; `apart` is as in `predict`."""
        self.residents.hold(version)
        try:
            resident = await (self.isolation.apart(version) if apart else self._loads.get(version))
            try:
                yield resident.model
            except ReplicaDied:
                self.isolation.worker_died(version, resident)
                raise
            self.isolation.answered(version)
        finally:
            self.residents.let_go(version)

    def contracts(self, versions: Iterable[ModelVersion]) -> dict[ModelVersion, Contract]:
        """Return the contracts of those versions that are loaded."""
        found = {version: self.residents.get(version) for version in versions}
        specs = {version: resident.model.spec for version, resident in found.items() if resident is not None}
        return {version: Contract(spec.inputs, spec.params) for version, spec in specs.items()}

    async def keep(self, versions: Iterable[ModelVersion], hot: Iterable[ModelVersion] = ()) -> None:
        """Load the missing ones of these versions and evict them last.

        A version that was evicted because the budget is too small is loaded again only when called. Otherwise two
        versions that do not fit together would evict each other in turns.

        Args:
            hot: versions to load once, each time that they become hot; they are evicted like others.
        """
        assigned = self.residents.assigned = frozenset(versions)
        self.residents.crowded_out &= assigned
        before, self._hot = self._hot, frozenset(hot) - assigned
        missing = (assigned - self.residents.crowded_out | self._hot - before) - {*self.residents}
        self.isolation.pardon()
        await asyncio.gather(*(self._loads.attempt(version) for version in missing))

    def release_model(self, name: str) -> None:
        """Release every version of a model, because its name means another model now, or none."""
        self._loader.forget(name)
        for version in [version for version in self.states() if version.name == name]:
            self.release(version)

    def release(self, version: ModelVersion) -> None:
        """Drop a version. Predictions in progress keep their model; a load in progress is discarded."""
        self._loads.discard(version)
        self.forgive(version)
        if self.residents.remove(version):
            log.info("model unloaded: model=%s", version)
            self._changed()

    def forgive(self, version: ModelVersion) -> None:
        """Forget failures and crashes of a version, so that the next call loads it as any other."""
        self._loads.forgive(version)
        self.isolation.forget(version)
        self.residents.crowded_out.discard(version)

    def close(self) -> None:
        """End the threads after their current work."""
        self.isolation.close()
        self._loads.close()
        self._predict_threads.close()

    def _run(self, version: ModelVersion, resident: Resident, batch: Batch, *, on_loop: bool) -> Output:
        started = time.perf_counter()
        try:
            with self._meter.working(version):
                output = resident.model.predict(batch)
            if not resident.model.worker:
                check_answer(output.nbytes, self.answer_bytes)
            return output
        finally:
            resident.short_calls.took(batch.count, time.perf_counter() - started, on_loop=on_loop)
