"""Model versions in one process: loaded on demand, kept within a byte budget, predicted in a few threads.

`app.deployments.pool_member` owns one `ModelHost` per process and pool. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, TypeVar

from app.errors import EnvironmentMissing, ModelUnavailable, ReplicaDied, ServingError
from app.hosting.model import Loader
from app.hosting.residents import Resident, Residents
from app.hosting.shared_threads import SharedThreads
from app.serving.batching.short_calls import ShortCalls
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import BusyMeter
from app.serving.placement.states import VersionState
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.releases.observed import Contract
from app.serving.rows import Batch, Output
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Failure(NamedTuple):
    error: ServingError
    until: float


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
    ) -> None:
        self._loader = loader
        self._load_timeout_s = load_timeout_s
        self._retry_after_s = retry_after_s
        self._changed = changed
        self._meter = meter or BusyMeter(time.monotonic)
        self.residents = Residents(budget_bytes, max_workers)
        self._failures: dict[ModelVersion, _Failure] = {}
        self._loading: SingleFlight[ModelVersion, Resident] = SingleFlight()
        self._in_loading: set[ModelVersion] = set()
        self._released_while_loading: set[ModelVersion] = set()
        self._hot: frozenset[ModelVersion] = frozenset()
        self._predict_threads = SharedThreads(predict_threads, "predict")
        self._load_threads = SharedThreads(load_threads, "load")
        self._build_threads = ThreadPoolExecutor(1, thread_name_prefix="build")
        self._building: dict[ModelVersion, str] = {}

    @property
    def resident(self) -> list[ModelVersion]:
        """The loaded versions."""
        return list(self.residents)

    def states(self) -> dict[ModelVersion, VersionState]:
        """Return the state of every version that is loaded, loading or failed."""
        states = {version: VersionState("loading", doing=self._building.get(version)) for version in self._in_loading}
        for version, failure in self._failures.items():
            states[version] = VersionState("failed", failure.error.message)
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
        return (await self._get(version)).model.spec

    async def predict(self, version: ModelVersion, batch: Batch) -> Output:
        """Predict a batch: short predictions on the event loop, others in a thread.

        Raises:
            ModelFailed: the model raised.
            ModelUnavailable, ModelNotFound, RegistryUnavailable: as `describe`.
        """
        self.residents.hold(version)  # before the load, so that no eviction follows it
        try:
            resident = await self._get(version)
            try:
                # Never beside a thread: a pool with one thread promises its models one call at a time.
                if self._predict_threads.idle and resident.short_calls.is_short(batch.count):
                    return self._run(version, resident, batch, on_loop=True)
                return await self.in_thread(version, partial(self._run, version, resident, batch, on_loop=False))
            except ReplicaDied:
                self._worker_died(version, resident)
                raise
        finally:
            self.residents.let_go(version)

    async def in_thread(self, version: ModelVersion, call: Callable[[], T]) -> T:
        """Run a blocking call to a version in a prediction thread."""
        return await self._predict_threads.run(version, call)

    @asynccontextmanager
    async def using(self, version: ModelVersion) -> AsyncIterator[Model]:
        """Load a version if needed and keep it from being evicted. Raises as `describe`."""
        self.residents.hold(version)
        try:
            resident = await self._get(version)
            try:
                yield resident.model
            except ReplicaDied:
                self._worker_died(version, resident)
                raise
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
        await asyncio.gather(*(self._try(version) for version in missing))

    def release_model(self, name: str) -> None:
        """Release every version of a model, because its name means another model now, or none."""
        self._loader.forget(name)
        for version in [version for version in self.states() if version.name == name]:
            self.release(version)

    def release(self, version: ModelVersion) -> None:
        """Drop a version. Predictions in progress keep their model; a load in progress is discarded."""
        if version in self._in_loading:
            self._released_while_loading.add(version)
        self.forgive(version)
        if self.residents.remove(version):
            log.info("model unloaded: model=%s", version)
            self._changed()

    def forgive(self, version: ModelVersion) -> None:
        """Forget a failed load, so that the next call tries again."""
        self._failures.pop(version, None)
        self.residents.crowded_out.discard(version)

    def close(self) -> None:
        """End the threads after their current work."""
        self._load_threads.close()
        self._build_threads.shutdown(wait=False, cancel_futures=True)
        self._predict_threads.close()

    def _run(self, version: ModelVersion, resident: Resident, batch: Batch, *, on_loop: bool) -> Output:
        started = time.perf_counter()
        try:
            with self._meter.working(version):
                return resident.model.predict(batch)
        finally:
            resident.short_calls.took(batch.count, time.perf_counter() - started, on_loop=on_loop)

    async def _try(self, version: ModelVersion) -> None:
        try:
            await self._get(version)
        except ServingError as error:
            log.warning("load failed, trying again when called: model=%s error=%s", version, error.message)

    async def _get(self, version: ModelVersion) -> Resident:
        resident = self.residents.use(version)
        if resident is not None:
            return resident
        failure = self._failures.get(version)
        if failure is not None and time.monotonic() < failure.until:
            raise copy.copy(failure.error)  # a copy: each raise adds its caller's frames to the traceback
        return await self._loading.do(version, partial(self._load, version))

    async def _load(self, version: ModelVersion) -> Resident:
        self._in_loading.add(version)
        self._failures.pop(version, None)
        self._changed()
        try:
            try:
                model = await self._read(version)
            except EnvironmentMissing as missing:
                await self._build(version, str(missing))
                model = await self._read(version)
        except ServingError as error:
            self._failed(version, error)
            raise
        except TimeoutError:
            late = ModelUnavailable(f"{version} was not loaded within {self._load_timeout_s:g} s")
            self._failed(version, late)
            raise late from None
        except Exception as error:
            log.exception("load failed: model=%s", version)
            unknown = ModelUnavailable(f"{version} cannot be loaded; the log has the cause")
            self._failed(version, unknown)
            raise unknown from error
        finally:
            self._in_loading.discard(version)
            self._changed()
        # A call to another process is never made on the event loop.
        resident = Resident(model, ShortCalls("" if model.worker else model.spec.flavor, time.monotonic))
        if version in self._released_while_loading:
            self._released_while_loading.discard(version)
            # If the version is still assigned, its name means another model by now, which is loaded instead.
            return await self._load(version) if version in self.residents.assigned else resident
        self.residents.add(version, resident)
        self._changed()
        return resident

    async def _read(self, version: ModelVersion) -> Model:
        return await self._load_threads.run(version, partial(self._loader.load, version), self._load_timeout_s)

    async def _build(self, version: ModelVersion, doing: str) -> None:
        """Build an environment in a thread of its own: it takes long, and other versions load meanwhile."""
        self._building[version] = doing
        self._changed()
        log.info("%s: model=%s", doing, version)
        try:
            await asyncio.get_running_loop().run_in_executor(self._build_threads, self._loader.build, version)
        finally:
            del self._building[version]
            self._changed()

    def _worker_died(self, version: ModelVersion, resident: Resident) -> None:
        """Drop the versions of a worker that died, so that the next call of each loads it again."""
        if self.residents.get(version) is not resident:  # loaded again meanwhile
            return
        for dead in self.residents.remove_worker(resident.model.worker):
            log.warning("the worker of a model died: model=%s", dead)
        self._changed()

    def _failed(self, version: ModelVersion, error: ServingError) -> None:
        self._failures[version] = _Failure(error, time.monotonic() + self._retry_after_s)
