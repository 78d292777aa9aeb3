"""Worker processes: Ray actors that hold the versions which cannot share the process of a pool replica.

`Workers` lives in the replica and starts one actor per environment, on its own node. The actor ends with the last of
its models, or with the replica, which owns it. To `ModelHost` a version in a worker is a model whose `predict` blocks.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from app.adapters.mlflow.environments import Environment
from app.adapters.mlflow.process_state import ChangesProcess
from app.deployments.process import enter_own_folder, memory_bytes, prepare_for_models
from app.errors import ModelUnavailable, ReplicaDied, ServingError
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

log = logging.getLogger(__name__)


class ModelWorker:
    """The actor: loads versions and predicts them, in a working directory of its own.

    Methods return our errors, because Ray adds its own text to raised ones.

    Args:
        log_level: of ``logging``.
    """

    def __init__(self, log_level: str) -> None:
        from app.adapters.mlflow.memory import MemoryGrowth  # noqa: PLC0415 - MLflow, after the environment is set

        logging.basicConfig(level=log_level)
        enter_own_folder()
        self._models: dict[int, Any] = {}
        self._streams: set[str] = set()
        self._growth = MemoryGrowth()
        prepare_for_models()

    def load(
        self, number: int, version: ModelVersion, folder: Path, *, alone: bool
    ) -> tuple[ModelSpec, str | None] | Exception:
        """Load a version under a number; return its spec and problem. The first one's size is that of the process."""
        from app.adapters.mlflow.loaded_model import read_model  # noqa: PLC0415 - MLflow

        try:
            model = read_model(version, folder, self._growth, alone=alone)
        except (ServingError, ChangesProcess) as error:
            return error.with_traceback(None)
        spec = replace(model.spec, nbytes=model.spec.nbytes if self._models else memory_bytes())
        self._models[number] = model
        return spec, model.problem

    def predict(self, number: int, batch: Batch) -> Output | ServingError:
        try:
            found: Output = self._models[number].predict(batch)
        except ServingError as error:
            return error.with_traceback(None)
        return found

    def invoke(self, number: int, body: bytes) -> bytes | ServingError:
        try:
            found: bytes = self._models[number].invoke(body)
        except ServingError as error:
            return error.with_traceback(None)
        return found

    def stream(self, number: int, call: str, body: bytes) -> Iterator[str | ServingError]:
        """Yield the events of a stream until they end or `stop` is called with its name."""
        self._streams.add(call)
        events = self._models[number].stream(body)
        try:
            for event in events:
                if call not in self._streams:
                    return
                yield event
        except ServingError as error:
            yield error.with_traceback(None)
        finally:
            events.close()
            self._streams.discard(call)

    def stop(self, call: str) -> None:
        self._streams.discard(call)

    def unload(self, number: int) -> None:
        self._models.pop(number, None)

    def pid(self) -> int:
        return os.getpid()


class WorkerModel:
    """A version in a worker. The worker drops it when this object is gone."""

    def __init__(self, worker: _Worker, number: int, spec: ModelSpec, problem: str | None) -> None:
        self.spec = spec
        self.problem = problem
        self.worker = worker.key
        self._worker = worker
        self._number = number
        self._predict = worker.actor.predict

    def predict(self, batch: Batch) -> Output:
        """Predict one batch; blocks.

        Raises:
            ModelFailed: the model raised.
            ReplicaDied: the worker died.
        """
        found = self._worker.get(self._predict.remote(self._number, batch))
        if isinstance(found, Exception):
            raise found
        output: Output = found
        return output

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
        events = self._worker.actor.stream.options(num_returns="streaming").remote(self._number, call, body)
        try:
            for event in events:
                found = self._worker.get(event)
                if isinstance(found, Exception):
                    raise found
                yield found
        except RayActorError as error:
            raise self._worker.death() from error
        finally:
            self._worker.actor.stop.remote(call)


class _Worker:
    """One actor and the number of models in it."""

    def __init__(self, key: str, actor: Any) -> None:
        self.key = key
        self.actor = actor
        self.is_dead = False
        self.loads = 0
        self.models = 0
        self.ended: list[Callable[[], None]] = []

    def get(self, reference: Any, timeout_s: float | None = None) -> Any:
        """Return the result of a call. Raises `ReplicaDied` where the actor died."""
        try:
            return ray.get(reference, timeout=timeout_s)
        except RayActorError as error:
            raise self.death() from error

    def death(self) -> ReplicaDied:
        """Note that the actor has died; return the error that says so."""
        self.is_dead = True
        return ReplicaDied("the worker process of the model died during the call; try again")


class Workers:
    """The workers of one pool replica. Thread-safe.

    Args:
        threads: predictions that one worker computes at the same time.
        load_timeout_s: most seconds that a load may take, the start of the worker included.
    """

    def __init__(self, threads: int, load_timeout_s: float, log_level: str) -> None:
        self._threads = threads
        self._load_timeout_s = load_timeout_s
        self._log_level = log_level.upper()
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
        """Load a version in the worker of its environment. Raises `ChangesProcess` and `ModelUnavailable`."""
        with self._lock:
            worker = self._workers.get(environment.key)
            if worker is None or worker.is_dead:
                worker = self._workers[environment.key] = _Worker(environment.key, self._start(overlay))
                log.info("started a worker: model=%s reason=%s", version, environment.reason)
            worker.loads += 1
            worker.models += 1
            number = worker.loads
        try:
            load = worker.actor.load.remote(number, version, folder, alone=environment.version is not None)
            found = worker.get(load, self._load_timeout_s)
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
        spec, problem = found
        with self._lock:
            worker.ended.append(ended)
        model = WorkerModel(worker, number, replace(spec, isolation=environment.reason), problem)
        weakref.finalize(model, self._drop, worker, number).atexit = False  # the workers end with the replica
        return model

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            for worker in [*self._workers.values()]:
                self._end(worker)

    def pids(self) -> list[int]:
        """Return the process ids of the running workers; blocks."""
        with self._lock:
            actors = [worker.actor for worker in self._workers.values() if not worker.is_dead]
        found: list[int] = ray.get([actor.pid.remote() for actor in actors])
        return found

    def _start(self, overlay: Path | None) -> Any:
        libraries = [str(overlay)] if overlay is not None else []
        path = os.pathsep.join([*libraries, *filter(None, [os.environ.get("PYTHONPATH")])])
        node = ray.get_runtime_context().get_node_id()
        return (
            _actor_class()
            .options(
                num_cpus=0,
                max_concurrency=self._threads + 2,  # loads and the end of streams do not wait for the others
                runtime_env={"env_vars": {"PYTHONPATH": path}} if libraries else None,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self._log_level)
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
        ray.kill(worker.actor)
        while worker.ended:
            worker.ended.pop()()


def _actor_class() -> Any:
    return ray.remote(ModelWorker)
