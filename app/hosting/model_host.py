"""Model versions in one process: loaded on demand, kept within a byte budget, predicted in a few threads.

`app.deployments.pool_member` owns one `ModelHost` per process and pool. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, Protocol

from app.errors import ModelUnavailable, ServingError
from app.serving.batching.short_calls import ShortCalls
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import BusyMeter
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.observed import Contract
from app.serving.rows import Batch, Output
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)


class Model(Protocol):
    """A loaded model version; its methods block. `problem` is a reason not to promote it, or None."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def problem(self) -> str | None: ...

    def predict(self, batch: Batch) -> Output: ...

    def invoke(self, body: bytes) -> bytes: ...

    def stream(self, body: bytes) -> Iterator[str]: ...


class Loader(Protocol):
    """Loads versions; `load` blocks. `forget` drops caches of a name that means another model now."""

    def load(self, version: ModelVersion) -> Model: ...

    def forget(self, name: str) -> None: ...


class _Failure(NamedTuple):
    error: ServingError
    until: float


class _Resident(NamedTuple):
    model: Model
    short_calls: ShortCalls


class ModelHost:
    """The versions that one replica holds.

    Versions load independently, so a slow load blocks no other version; concurrent callers of a version await the same
    load. A version in use is never evicted.

    Args:
        loader: loads versions.
        budget_bytes: memory of all resident versions together; beyond it the least recently used are evicted.
        predict_threads: concurrent predictions.
        load_threads: concurrent loads.
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
        predict_threads: int,
        load_threads: int = 2,
        meter: BusyMeter | None = None,
        load_timeout_s: float = 300.0,
        retry_after_s: float = 15.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._loader = loader
        self._budget_bytes = budget_bytes
        self._load_timeout_s = load_timeout_s
        self._retry_after_s = retry_after_s
        self._changed = changed
        self._meter = meter or BusyMeter(time.monotonic)
        self._residents: OrderedDict[ModelVersion, _Resident] = OrderedDict()
        self._in_use: dict[ModelVersion, int] = {}
        self._failures: dict[ModelVersion, _Failure] = {}
        self._loading: SingleFlight[ModelVersion, _Resident] = SingleFlight()
        self._in_loading: set[ModelVersion] = set()
        self._released_while_loading: set[ModelVersion] = set()
        self._keep: frozenset[ModelVersion] = frozenset()
        self._hot: frozenset[ModelVersion] = frozenset()
        self._crowded_out: set[ModelVersion] = set()
        self._predict_threads = ThreadPoolExecutor(predict_threads, thread_name_prefix="predict")
        self._in_threads: set[Future[Output]] = set()
        self._load_threads = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._load_slots = asyncio.Semaphore(load_threads)
        self.evictions = 0

    @property
    def resident(self) -> list[ModelVersion]:
        """The loaded versions."""
        return list(self._residents)

    @property
    def resident_bytes(self) -> int:
        """Memory of the resident versions, as measured when they were loaded."""
        return sum(resident.model.spec.nbytes for resident in self._residents.values())

    def states(self) -> dict[ModelVersion, VersionState]:
        """Return the state of every version that is loaded, loading or failed."""
        states = {version: VersionState("loading") for version in self._in_loading}
        for version, failure in self._failures.items():
            states[version] = VersionState("failed", failure.error.message)
        for version in self._crowded_out:
            states[version] = VersionState("failed", "evicted: the pool's model_bytes cannot hold all its versions")
        for version, (model, _) in self._residents.items():
            states[version] = VersionState(
                "ready", None, model.spec.nbytes, model.spec.load_ms, model.spec.batching, model.problem
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
        self._in_use[version] = self._in_use.get(version, 0) + 1  # before the load, so that no eviction follows it
        try:
            resident = await self._get(version)
            # Never beside a thread: a pool with one thread promises its models one call at a time.
            if not self._in_threads and resident.short_calls.is_short(batch.count):
                return self._run(version, resident, batch, on_loop=True)
            work = self._predict_threads.submit(self._run, version, resident, batch, on_loop=False)
            self._in_threads.add(work)  # until it ends, even if its caller no longer waits
            work.add_done_callback(self._in_threads.discard)
            return await asyncio.wrap_future(work)
        finally:
            self._used(version)

    @asynccontextmanager
    async def using(self, version: ModelVersion) -> AsyncIterator[Model]:
        """Load a version if needed and keep it from being evicted. Raises as `describe`."""
        self._in_use[version] = self._in_use.get(version, 0) + 1
        try:
            yield (await self._get(version)).model
        finally:
            self._used(version)

    def contracts(self, versions: Iterable[ModelVersion]) -> dict[ModelVersion, Contract]:
        """Return the contracts of those versions that are loaded."""
        specs = {version: self._residents[version].model.spec for version in versions if version in self._residents}
        return {version: Contract(spec.inputs, spec.params) for version, spec in specs.items()}

    async def keep(self, versions: Iterable[ModelVersion], hot: Iterable[ModelVersion] = ()) -> None:
        """Load the missing ones of these versions and evict them last.

        A version that was evicted because the budget is too small is loaded again only when called. Otherwise two
        versions that do not fit together would evict each other in turns.

        Args:
            hot: versions to load once, each time that they become hot; they are evicted like others.
        """
        self._keep = frozenset(versions)
        self._crowded_out &= self._keep
        before, self._hot = self._hot, frozenset(hot) - self._keep
        missing = (self._keep - self._crowded_out | self._hot - before) - self._residents.keys()
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
        if self._residents.pop(version, None) is not None:
            log.info("model unloaded: model=%s", version)
            self._changed()

    def forgive(self, version: ModelVersion) -> None:
        """Forget a failed load, so that the next call tries again."""
        self._failures.pop(version, None)
        self._crowded_out.discard(version)

    def close(self) -> None:
        """End the threads after their current work."""
        self._load_threads.shutdown(cancel_futures=True)
        self._predict_threads.shutdown()

    def _used(self, version: ModelVersion) -> None:
        self._in_use[version] -= 1
        if not self._in_use[version]:
            del self._in_use[version]

    def _run(self, version: ModelVersion, resident: _Resident, batch: Batch, *, on_loop: bool) -> Output:
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

    async def _get(self, version: ModelVersion) -> _Resident:
        resident = self._residents.get(version)
        if resident is not None:
            self._residents.move_to_end(version)
            return resident
        failure = self._failures.get(version)
        if failure is not None and time.monotonic() < failure.until:
            raise copy.copy(failure.error)  # a copy: each raise adds its caller's frames to the traceback
        return await self._loading.do(version, partial(self._load, version))

    async def _load(self, version: ModelVersion) -> _Resident:
        self._in_loading.add(version)
        self._failures.pop(version, None)
        self._changed()
        try:
            async with self._load_slots, asyncio.timeout(self._load_timeout_s):  # without the wait for a slot
                loop = asyncio.get_running_loop()
                model = await loop.run_in_executor(self._load_threads, self._loader.load, version)
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
        resident = _Resident(model, ShortCalls(model.spec.flavor, time.monotonic))
        if version in self._released_while_loading:
            self._released_while_loading.discard(version)
            # If the version is still assigned, its name means another model by now, which is loaded instead.
            return await self._load(version) if version in self._keep else resident
        self._residents[version] = resident
        self._crowded_out.discard(version)
        self._evict(spare=version)
        self._changed()
        return resident

    def _failed(self, version: ModelVersion, error: ServingError) -> None:
        self._failures[version] = _Failure(error, time.monotonic() + self._retry_after_s)

    def _evict(self, spare: ModelVersion) -> None:
        """Evict the least recently used versions until the budget holds; assigned ones last."""
        for version in sorted(self._residents, key=self._keep.__contains__):  # stable: keeps the order of use
            if self.resident_bytes <= self._budget_bytes:
                return
            if version == spare or version in self._in_use:
                continue
            self.evictions += 1
            del self._residents[version]
            if version in self._keep:
                self._crowded_out.add(version)
            log.warning("model evicted: model=%s budget_bytes=%d", version, self._budget_bytes)
