"""Loads of versions in one process: each once at a time, within a time limit, with a memory of failures."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from app.errors import EnvironmentMissing, ModelUnavailable, ServingError
from app.hosting.model import Loader
from app.hosting.residents import Resident, Residents
from app.hosting.shared_threads import SharedThreads
from app.serving.batching.short_calls import ShortCalls
from app.serving.placement.states import VersionState
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)

_EQUAL_PAUSES, _LONGEST_PAUSE_S = 3, 300.0
"""Failed loads of a version after which each further pause is twice as long, and the longest pause. A load that kills
its process costs seconds of CPU each time."""


class _Failure(NamedTuple):
    error: ServingError
    until: float


class Loads:
    """Loads versions into `residents`. Use it on one event loop.

    Args:
        threads: concurrent loads; slow ones leave room for others.
        timeout_s: seconds after which a load fails.
        retry_after_s: seconds for which a failed load is answered from memory; longer if it fails again and again.
        changed: called after every change of `states`.
    """

    def __init__(
        self,
        loader: Loader,
        residents: Residents,
        *,
        threads: int,
        timeout_s: float,
        retry_after_s: float,
        changed: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._residents = residents
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._changed = changed
        self._threads = SharedThreads(threads, "load")
        self._build_threads = ThreadPoolExecutor(1, thread_name_prefix="build")
        self._building: dict[ModelVersion, str] = {}
        self._failures: dict[ModelVersion, _Failure] = {}
        self._flights: SingleFlight[ModelVersion, Resident] = SingleFlight()
        self._failed_times: Counter[ModelVersion] = Counter()
        self._in_progress: set[ModelVersion] = set()
        self._begun: set[ModelVersion] = set()
        self._discarded: set[ModelVersion] = set()

    def states(self) -> dict[ModelVersion, VersionState]:
        """Return the state of every version that is loading or failed."""
        states = {
            version: VersionState("loading", doing=self._building.get(version), begun=version in self._begun)
            for version in self._in_progress
        }
        for version, failure in self._failures.items():
            states[version] = VersionState("failed", failure.error.message)
        return states

    async def get(self, version: ModelVersion) -> Resident:
        """Return a version and count the use; load it if needed. Raises as `load`, also for a recent failure."""
        resident = self._residents.use(version)
        if resident is not None:
            return resident
        failure = self._failure(version)
        if failure is not None:
            raise copy.copy(failure)  # a copy: each raise adds its caller's frames to the traceback
        return await self.load(version)

    async def load(self, version: ModelVersion) -> Resident:
        """Load a version, also if it is loaded; concurrent callers await the same load.

        Raises:
            ModelUnavailable, ModelNotFound, RegistryUnavailable: from the loader, or the load timed out.
        """
        return await self._flights.do(version, partial(self._load, version))

    async def attempt(self, version: ModelVersion) -> None:
        """Load a version if needed; log a failure, unless it is a remembered one."""
        if self._failure(version) is not None:
            return
        try:
            await self.get(version)
        except ServingError as error:
            log.warning("load failed, trying again when called: model=%s error=%s", version, error.message)

    def refuse(self, version: ModelVersion, error: ServingError, seconds: float) -> None:
        """Answer calls of a version with an error for some seconds."""
        self._failures[version] = _Failure(error, time.monotonic() + seconds)

    def forgive(self, version: ModelVersion) -> None:
        """Forget failed loads, so that the next call tries again."""
        self._failures.pop(version, None)
        self._failed_times.pop(version, None)

    def discard(self, version: ModelVersion) -> None:
        """Discard the load in progress, if there is one."""
        if version in self._in_progress:
            self._discarded.add(version)

    def close(self) -> None:
        """End the threads after their current work."""
        self._threads.close()
        self._build_threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, version: ModelVersion) -> Resident:
        self._in_progress.add(version)
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
            late = ModelUnavailable(f"{version} was not loaded within {self._timeout_s:g} s")
            self._failed(version, late)
            raise late from None
        except Exception as error:
            log.exception("load failed: model=%s", version)
            unknown = ModelUnavailable(f"{version} cannot be loaded; the log has the cause")
            self._failed(version, unknown)
            raise unknown from error
        finally:
            self._in_progress.discard(version)
            self._begun.discard(version)
            self._changed()
        # A call to another process is never made on the event loop.
        resident = Resident(model, ShortCalls("" if model.worker else model.spec.flavor, time.monotonic))
        if version in self._discarded:
            self._discarded.discard(version)
            # If the version is still assigned, its name means another model by now, which is loaded instead.
            return await self._load(version) if version in self._residents.assigned else resident
        self._failed_times.pop(version, None)
        self._residents.add(version, resident)
        self._changed()
        return resident

    def _failure(self, version: ModelVersion) -> ServingError | None:
        """Return the error of a failed load that is not tried again yet."""
        failure = self._failures.get(version)
        return failure.error if failure is not None and time.monotonic() < failure.until else None

    async def _read(self, version: ModelVersion) -> Model:
        load = partial(self._loader.load, version)
        return await self._threads.run(version, load, self._timeout_s, partial(self._begin, version))

    def _begin(self, version: ModelVersion) -> None:
        self._begun.add(version)
        self._changed()

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

    def _failed(self, version: ModelVersion, error: ServingError) -> None:
        self._failed_times[version] += 1
        times = 2 ** min(max(self._failed_times[version] - _EQUAL_PAUSES, 0), 10)
        self.refuse(version, error, min(self._retry_after_s * times, max(_LONGEST_PAUSE_S, self._retry_after_s)))
