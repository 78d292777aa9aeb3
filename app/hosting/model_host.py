"""Model versions in one process: loaded on demand, kept within a byte budget, predicted in a few threads.

A `ModelHost` does not know Ray. It is what a pool replica consists of, wherever that replica is placed.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

from app.errors import ModelUnavailable, ServingError
from app.serving.batching.short_calls import ShortCalls
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import BusyMeter
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.rollout import Contract
from app.serving.rows import Batch, Output
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)


class Model(Protocol):
    """A loaded model version; `predict` blocks. `problem` is what speaks against it, or None."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def problem(self) -> str | None: ...

    def predict(self, batch: Batch) -> Output: ...


class Loader(Protocol):
    """Loads versions; `load` blocks. `forget` is called when a name means another model than before."""

    def load(self, version: ModelVersion) -> Model: ...

    def forget(self, name: str) -> None: ...


class _Failure:
    __slots__ = ("error", "until")

    def __init__(self, error: ServingError, until: float) -> None:
        self.error = error
        self.until = until


class ModelHost:
    """The versions that one replica holds.

    Each version has its own load under way, so a slow one blocks no other; who asks for it meanwhile awaits the same
    load. What is in use is never evicted.

    Args:
        loader: where versions come from.
        budget_bytes: memory of all resident versions together; beyond it the least recently used ones leave.
        predict_threads: predictions at the same time.
        load_threads: loads at the same time.
        meter: told when threads predict.
        load_timeout_s: seconds after which a load counts as failed.
        retry_after_s: seconds for which a failed load is answered from memory.
        changed: called whenever `states` has changed.
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
        self._models: OrderedDict[ModelVersion, Model] = OrderedDict()
        self._short: dict[ModelVersion, ShortCalls] = {}
        self._in_use: dict[ModelVersion, int] = {}
        self._failures: dict[ModelVersion, _Failure] = {}
        self._loading: SingleFlight[ModelVersion, Model] = SingleFlight()
        self._under_way: set[ModelVersion] = set()
        self._dropped: set[ModelVersion] = set()
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
        """The versions that are loaded."""
        return list(self._models)

    @property
    def resident_bytes(self) -> int:
        """What the resident versions take, by their own measure."""
        return sum(model.spec.nbytes for model in self._models.values())

    def states(self) -> dict[ModelVersion, VersionState]:
        """Every version that is here, on its way, or failed."""
        states = {version: VersionState("loading") for version in self._under_way}
        for version, failure in self._failures.items():
            states[version] = VersionState("failed", failure.error.message)
        for version in self._crowded_out:
            states[version] = VersionState(
                "failed", "evicted: the pool's model_bytes are too few for all it should hold"
            )
        for version, model in self._models.items():
            states[version] = VersionState("ready", None, model.spec.nbytes, model.spec.load_ms, model.problem)
        return states

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """Load the version where it is not here, and tell what it is.

        Raises:
            ModelUnavailable, ModelNotFound, RegistryUnavailable: as the loader does, or its load took too long.
        """
        return (await self._get(version)).spec

    async def predict(self, version: ModelVersion, batch: Batch) -> Output:
        """Predict a batch, in a thread unless that is known to be short. Raises as `describe`, and `ModelFailed`."""
        self._in_use[version] = self._in_use.get(version, 0) + 1  # from here on, so that it is not evicted at once
        try:
            model = await self._get(version)
            if version in self._models:
                self._models.move_to_end(version)
            short = self._short.get(version) or ShortCalls(model.spec.flavor, time.monotonic)
            # Never beside a thread: a pool with one of them promises its models one call at a time.
            if not self._in_threads and short.is_short(batch.count):
                return self._run(version, model, batch, short, on_loop=True)
            work = self._predict_threads.submit(self._run, version, model, batch, short, on_loop=False)
            self._in_threads.add(work)  # until it ends, also where nobody awaits it any more
            work.add_done_callback(self._in_threads.discard)
            return await asyncio.wrap_future(work)
        finally:
            self._in_use[version] -= 1
            if not self._in_use[version]:
                del self._in_use[version]

    def contracts(self, versions: Iterable[ModelVersion]) -> dict[ModelVersion, Contract]:
        """What those of the versions take that are in memory."""
        specs = {version: self._models[version].spec for version in versions if version in self._models}
        return {version: Contract(spec.inputs, spec.params) for version, spec in specs.items()}

    async def keep(self, versions: Iterable[ModelVersion], hot: Iterable[ModelVersion] = ()) -> None:
        """Hold these versions: load what is missing, now or again when its failure may be retried.

        What had to leave for want of space is not loaded again until it is called, or the two would evict each other.

        Args:
            hot: versions to load besides, once each time that they become hot; they are evicted like others.
        """
        self._keep = frozenset(versions)
        self._crowded_out &= self._keep
        before, self._hot = self._hot, frozenset(hot) - self._keep
        missing = (self._keep - self._crowded_out | self._hot - before) - self._models.keys()
        await asyncio.gather(*(self._try(version) for version in missing))

    def release_model(self, name: str) -> None:
        """Let every version of a model go: its name means another one now, or none."""
        self._loader.forget(name)
        for version in [version for version in self.states() if version.name == name]:
            self.release(version)

    def release(self, version: ModelVersion) -> None:
        """Let a version go. A prediction under way keeps its model until it is done, a load under way is dropped."""
        if version in self._under_way:
            self._dropped.add(version)
        self._failures.pop(version, None)
        self._crowded_out.discard(version)
        self._short.pop(version, None)
        if self._models.pop(version, None) is not None:
            log.info("%s is unloaded", version)
            self._changed()

    def forgive(self, version: ModelVersion) -> None:
        """Forget that the version failed to load, so that the next call tries again."""
        self._failures.pop(version, None)
        self._crowded_out.discard(version)

    def close(self) -> None:
        """End the threads; what they do is finished first."""
        self._load_threads.shutdown(cancel_futures=True)
        self._predict_threads.shutdown()

    def _run(self, version: ModelVersion, model: Model, batch: Batch, short: ShortCalls, *, on_loop: bool) -> Output:
        started = time.perf_counter()
        try:
            with self._meter.working(version):
                return model.predict(batch)
        finally:
            short.took(batch.count, time.perf_counter() - started, on_loop=on_loop)

    async def _try(self, version: ModelVersion) -> None:
        try:
            await self._get(version)
        except ServingError as error:
            log.warning("%s stays unloaded: %s", version, error.message)

    async def _get(self, version: ModelVersion) -> Model:
        model = self._models.get(version)
        if model is not None:
            return model
        failure = self._failures.get(version)
        if failure is not None and time.monotonic() < failure.until:
            raise copy.copy(failure.error)  # a copy: each raise adds its caller's frames, and what they hold
        return await self._loading.do(version, partial(self._load, version))

    async def _load(self, version: ModelVersion) -> Model:
        self._under_way.add(version)
        self._failures.pop(version, None)
        self._changed()
        try:
            async with self._load_slots, asyncio.timeout(self._load_timeout_s):  # the wait for a slot does not count
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
            log.exception("%s cannot be loaded", version)
            unknown = ModelUnavailable(f"{version} cannot be loaded; the log has the cause")
            self._failed(version, unknown)
            raise unknown from error
        finally:
            self._under_way.discard(version)
            self._changed()
        if version in self._dropped:
            self._dropped.discard(version)
            # Told to leave while it was on its way; where it should be held it means another model by now.
            return await self._load(version) if version in self._keep else model
        self._models[version] = model
        self._short[version] = ShortCalls(model.spec.flavor, time.monotonic)
        self._crowded_out.discard(version)
        self._evict(spare=version)
        self._changed()
        return model

    def _failed(self, version: ModelVersion, error: ServingError) -> None:
        self._failures[version] = _Failure(error, time.monotonic() + self._retry_after_s)

    def _evict(self, spare: ModelVersion) -> None:
        """Drop the least recently used versions until the budget holds; first those that nobody asked to keep."""
        oldest_first = list(self._models)
        order = [version for version in oldest_first if version not in self._keep]
        order += [version for version in oldest_first if version in self._keep]
        for version in order:
            if self.resident_bytes <= self._budget_bytes:
                return
            if version == spare or version in self._in_use:
                continue
            self.evictions += 1
            del self._models[version], self._short[version]
            if version in self._keep:
                self._crowded_out.add(version)
            log.warning("%s is evicted: the models are over %d bytes", version, self._budget_bytes)
