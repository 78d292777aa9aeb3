"""Worker processes: Ray actors that hold the versions which cannot share the process of a pool replica.

`Workers` lives in the replica and starts one actor per environment, on its own node. The actor ends with the last of
its models, or with the replica, which owns it. To `ModelHost` a version in a worker is a model whose `predict` blocks.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from app.adapters.mlflow.environments import Environment
from app.adapters.mlflow.process_state import ChangesProcess
from app.deployments.environment import WITHOUT_SERVE
from app.deployments.model_worker import ModelWorker
from app.deployments.variables import without_secrets
from app.errors import ModelUnavailable, ReplicaDied, ServingError
from app.lanes.blocking import BlockingLane, WorkerAddress
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output
from app.settings import Settings

log = logging.getLogger(__name__)

_AHEAD = 16
"""Events that a worker may be ahead of the reader of a stream."""

_PROBE = Batch(Layout("tensor", (), ("float64",), ((),)), (np.zeros(1),), 1)


class WorkerModel:
    """A version in a worker. The worker drops it when this object is gone."""

    def __init__(self, worker: _Worker, number: int, spec: ModelSpec, problem: str | None) -> None:
        self.spec = spec
        self.problem = problem
        self.worker = worker.key
        self._worker = worker
        self._number = number

    def predict(self, batch: Batch) -> Output:
        """Predict one batch; blocks.

        Raises:
            ModelFailed: the model raised.
            ReplicaDied: the worker died.
        """
        found = self._worker.predict(self._number, batch)
        if isinstance(found, Exception):
            raise found
        return found

    def invoke(self, body: bytes) -> bytes:
        """Answer a JSON body with JSON; blocks. Raises `InvalidInput`, `ModelFailed` and `ReplicaDied`."""
        found = self._worker.get(self._worker.actor.invoke.remote(self._number, body))
        if isinstance(found, Exception):
            raise found
        answer: bytes = found
        return answer

    def stream(self, body: bytes) -> Iterator[str]:
        """Yield the JSON of each event; blocks. Raises as `invoke`."""
        call = uuid.uuid4().hex
        stream = self._worker.actor.stream.options(num_returns="streaming", _generator_backpressure_num_objects=_AHEAD)
        events = stream.remote(self._number, call, body)
        try:
            for event in events:
                found = self._worker.get(event)
                if isinstance(found, Exception):
                    raise found
                yield found
        except RayTaskError:
            raise
        except RayError as error:
            raise self._worker.death() from error
        finally:
            self._worker.actor.stop.remote(call)


class _Worker:
    """One actor, the idle lanes to it, and the number of models in it."""

    def __init__(self, key: str, actor: Any, folder: Path, address: WorkerAddress) -> None:
        self.key = key
        self.actor = actor
        self.folder = folder
        self._address = address
        self._lanes: list[BlockingLane] = []
        self.is_dead = False
        self.loads = 0
        self.models = 0
        self.ended: list[Callable[[], None]] = []

    def predict(self, number: int, batch: Batch) -> Output | ServingError:
        """Predict a batch; blocks. Raises `ReplicaDied` where the actor died."""
        try:
            lane = self._lane()
            try:
                found: Output | ServingError = lane.call((number, batch))
            except BaseException:
                lane.close()
                raise
        except OSError as error:
            raise self.death() from error
        self._lanes.append(lane)
        return found

    def close_lanes(self) -> None:
        while self._lanes:
            self._lanes.pop().close()

    def _lane(self) -> BlockingLane:
        try:
            return self._lanes.pop()
        except IndexError:  # other threads use them all
            return BlockingLane(self._address)

    def get(self, reference: Any, timeout_s: float | None = None) -> Any:
        """Return the result of a call. Raises `ReplicaDied` where the actor died."""
        try:
            return ray.get(reference, timeout=timeout_s)
        except (RayTaskError, GetTimeoutError):
            raise
        except RayError as error:  # also where Ray killed it because memory ran out
            raise self.death() from error

    def death(self) -> ReplicaDied:
        """Note that the actor has died; return the error that says so."""
        self.is_dead = True
        return ReplicaDied("the worker process of the model died during the call; try again")


class Workers:
    """The workers of one pool replica. Thread-safe.

    Args:
        threads: calls that one worker computes at the same time.
        process_bytes: bound of a worker's memory.
    """

    def __init__(self, threads: int, process_bytes: int, settings: Settings) -> None:
        self._threads = threads
        self._process_bytes = process_bytes
        self._settings = settings
        self._workers: dict[str, _Worker] = {}
        self._lock = threading.RLock()  # finalizers run at any time, also while this thread holds it

    def load(
        self,
        version: ModelVersion,
        folder: Path,
        environment: Environment,
        overlay: Path | None,
        ended: Callable[[], None],
    ) -> WorkerModel:
        """Load a version in the worker of its environment. Raises `ChangesProcess` and `ModelUnavailable`.

        The load, with the start of the worker, takes at most the setting `load_timeout_s`.
        """
        try:
            return self._load(version, folder, environment, overlay, ended)
        except ReplicaDied:  # perhaps while nobody called it
            pass
        try:
            return self._load(version, folder, environment, overlay, ended)
        except ReplicaDied as error:
            raise ModelUnavailable(
                f"{version} cannot be loaded: its process died during the load, twice; the log has the cause",
                {"model": version.name},
            ) from error

    def _load(
        self,
        version: ModelVersion,
        folder: Path,
        environment: Environment,
        overlay: Path | None,
        ended: Callable[[], None],
    ) -> WorkerModel:
        worker, number = self._reserve(version, environment, overlay)
        try:
            load = worker.actor.load.remote(number, version, folder, _PROBE, alone=environment.version is not None)
            found = worker.get(load, self._settings.load_timeout_s)
            if isinstance(found, Exception):
                raise found
        except (ServingError, ChangesProcess):
            self._drop(worker, number)
            raise
        except (GetTimeoutError, RayError) as error:
            log.exception("failed to load %s in a worker", version)
            self._drop(worker, number)
            raise ModelUnavailable(
                f"{version} cannot be loaded in a worker process: {type(error).__name__}; the log has the cause",
                {"model": version.name},
            ) from error
        spec, problem, _ = found
        with self._lock:
            worker.ended.append(ended)
        model = WorkerModel(worker, number, replace(spec, isolation=environment.reason), problem)
        weakref.finalize(model, self._drop, worker, number).atexit = False  # the workers end with the replica
        return model

    def _reserve(self, version: ModelVersion, environment: Environment, overlay: Path | None) -> tuple[_Worker, int]:
        """Return the worker of an environment with one more model, and the number of that model."""
        with self._lock:
            worker = self._workers.get(environment.key)
            if worker is None or worker.is_dead:
                folder = Path(tempfile.mkdtemp(dir=Path.cwd(), prefix="worker-"))
                address = WorkerAddress(f"ml-serve-{uuid.uuid4().hex}", secrets.token_bytes(32))
                worker = _Worker(environment.key, self._start(overlay, folder, address), folder, address)
                self._workers[environment.key] = worker
                log.info("started a worker: model=%s reason=%s", version, environment.reason)
            worker.models += 1
            worker.loads += 1
            return worker, worker.loads

    def end(self, key: str) -> None:
        """End the worker with a key, if it runs; its calls raise `ReplicaDied`."""
        with self._lock:
            worker = self._workers.get(key)
            if worker is not None:
                worker.is_dead = True
                self._end(worker)

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            for worker in [*self._workers.values()]:
                self._end(worker)

    def _start(self, overlay: Path | None, folder: Path, address: WorkerAddress) -> Any:
        libraries = [str(overlay)] if overlay is not None else []
        path = os.pathsep.join([*libraries, *filter(None, [os.environ.get("PYTHONPATH")])])
        node = ray.get_runtime_context().get_node_id()
        own = {WITHOUT_SERVE: "1", **({"PYTHONPATH": path} if libraries else {})}
        kept = self._settings.environments.variables
        return (
            _actor_class()
            .options(
                num_cpus=0,
                max_concurrency=self._threads + 2,  # loads and the end of streams do not wait for the others
                runtime_env={"env_vars": {**without_secrets(kept), **own}},
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self._settings.without_secrets(), self._process_bytes, folder, address)
        )

    def _drop(self, worker: _Worker, number: int) -> None:
        with self._lock:
            worker.models -= 1
            if worker.models and not worker.is_dead:
                worker.actor.unload.remote(number)
            else:
                self._end(worker)

    def _end(self, worker: _Worker) -> None:
        if self._workers.get(worker.key) is worker:
            del self._workers[worker.key]
            log.info("ending a worker: key=%s", worker.key)
        worker.close_lanes()
        ray.kill(worker.actor)
        shutil.rmtree(worker.folder, ignore_errors=True)
        while worker.ended:
            worker.ended.pop()()


def _actor_class() -> Any:
    return ray.remote(ModelWorker)
