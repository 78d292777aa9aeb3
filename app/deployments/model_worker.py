"""The actor in a worker process: it holds versions that cannot share the process of a pool replica.

It runs with the libraries of its versions, which may be older than ours.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from app.adapters.mlflow.loaded_model import LoadedModel, read_model
from app.adapters.mlflow.memory import MemoryGrowth
from app.adapters.mlflow.process_state import ChangesProcess
from app.adapters.mlflow.registry import configure
from app.deployments.json_logs import write_json
from app.deployments.memory_bound import MemoryBound
from app.deployments.process import memory_bytes, prepare_for_models
from app.deployments.variables import drop_emptied
from app.errors import ServingError
from app.hosting.answer_bound import check_answer
from app.lanes.blocking import WorkerAddress, answer_lanes
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output
from app.settings import Settings

log = logging.getLogger(__name__)


class ModelWorker:
    """Loads versions and predicts them, in a working directory of its own.

    Methods return our errors, because Ray adds its own text to raised ones.

    Args:
        process_bytes: bound of its memory.
        folder: its working directory.
        address: where it takes batches; Ray carries the other calls.
    """

    def __init__(self, settings: Settings, process_bytes: int, folder: Path, address: WorkerAddress) -> None:
        logging.basicConfig(level=settings.log_level.upper())
        if settings.log_format == "json":
            for handler in logging.getLogger().handlers:
                write_json(handler)
        os.chdir(folder)
        drop_emptied()
        sys.dont_write_bytecode = True  # next to a model's own code it would look like damage
        _read_newer_arrays()
        configure(settings)
        self._settings = settings
        self._dropped: set[int] = set()
        self._models: dict[int, LoadedModel] = {}
        self._streams: set[str] = set()
        self._growth = MemoryGrowth()
        self._memory = MemoryBound(process_bytes)
        prepare_for_models()
        answer_lanes(address, lambda call: self._predict(*call))

    def load(
        self, number: int, version: ModelVersion, folder: Path, probe: Batch, *, alone: bool
    ) -> tuple[ModelSpec, str | None, Batch] | Exception:
        """Load a version under a number; return its spec and problem. The first one's size is that of the process.

        Args:
            probe: returned as it is; libraries of other versions may not read each other's arrays.
            alone: whether no other version will be loaded.
        """
        try:
            model = read_model(
                version, folder, self._growth, alone=alone, accelerate=self._settings.accelerates(version.name)
            )
        except (ServingError, ChangesProcess) as error:
            return error.with_traceback(None)
        spec = replace(model.spec, nbytes=model.spec.nbytes if self._models else memory_bytes())
        if number in self._dropped:  # its caller did not wait so long
            self._dropped.discard(number)
        else:
            self._models[number] = model
        return spec, model.problem, probe

    def invoke(self, number: int, body: bytes) -> bytes | ServingError:
        try:
            found: bytes = self._models[number].invoke(body)
            check_answer(len(found), self._settings.limits.answer_bytes)
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
        if self._models.pop(number, None) is None:
            self._dropped.add(number)

    def _predict(self, number: int, batch: Batch) -> Output | ServingError:
        if self._memory.is_full:
            log.error("the worker ends because its memory is full; see the pool's process_bytes")
            os._exit(1)  # the replica sends the call to a new one
        try:
            found: Output = self._models[number].predict(batch)
            check_answer(found.nbytes, self._settings.limits.answer_bytes)
        except ServingError as error:
            return error.with_traceback(None)
        return found


def _read_newer_arrays() -> None:
    """Let numpy 1 unpickle the arrays of numpy 2, which names one more module than numpy 1 prepared for."""
    if "numpy._core.numeric" not in sys.modules and find_spec("numpy._core.numeric") is None:
        sys.modules["numpy._core.numeric"] = import_module("numpy.core.numeric")
