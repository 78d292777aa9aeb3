"""Read a model version from its artifacts into this process, ready to predict batches."""

from __future__ import annotations

import copy
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import mlflow
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel

from app.adapters.artifacts.layout import size_of
from app.adapters.mlflow import accelerators, row_wise, type_hints
from app.adapters.mlflow.accelerators import Accelerator
from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.environments import is_python
from app.adapters.mlflow.invocations import Invocations
from app.adapters.mlflow.memory import MemoryGrowth
from app.adapters.mlflow.model_io import model_input, model_output, model_params
from app.adapters.mlflow.process_state import watch
from app.errors import ModelFailed, ModelUnavailable, ServingError
from app.serving.batching.short_calls import COMPUTING
from app.serving.batching_contract import ONE_OBJECT
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

log = logging.getLogger(__name__)


class LoadedModel:
    """A model version in memory.

    `problem` is a sentence, or None. A version with a problem answers requests by its number, but should not replace
    another version behind an alias. `worker` is the key of the process that holds the model, empty for this one.
    `invocations` keeps the enforcement that `model` may lack.
    """

    worker: ClassVar[str] = ""

    def __init__(
        self,
        spec: ModelSpec,
        model: PyFuncModel,
        problem: str | None = None,
        invocations: Invocations | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.spec = spec
        self.problem = problem
        self._model = model
        self.invocations = invocations or Invocations(model)
        self.invoke, self.stream = self.invocations.invoke, self.invocations.stream
        self.accelerator = accelerator
        self._hint = type_hints.input_hint(model)

    def predict(self, batch: Batch) -> Output:
        """Predict one batch; blocks.

        Raises:
            InvalidInput: the values do not fit the model's type hint.
            ModelFailed: the model raised, or its answer cannot be converted; ``details["failure"]`` is the number
                under which the log has the cause.
        """
        if self.accelerator is not None and self.accelerator.takes(batch):
            try:
                return self.accelerator.predict(batch)
            except BaseException:  # noqa: S110 - the usual way raises what MLflow raises, or answers
                pass
        given, params = model_input(batch), model_params(batch)  # an error in these is not the model's
        try:
            prediction = self._model.predict(given, params=params)
            return model_output(prediction)
        except ServingError:
            raise
        except BaseException as error:  # also what `sys.exit()` raises, which would end the event loop
            # The model may have written into what it was given.
            refused = type_hints.refusal(model_input(batch), self._hint) if self._hint is not None else None
            if refused is not None:
                raise refused from None
            failure = uuid.uuid4().hex[:12]
            log.exception("prediction failed: model=%s rows=%d failure=%s", self.spec.key, batch.count, failure)
            raise ModelFailed(
                f"the model raised {type(error).__name__} while predicting; the log has the cause",
                {"failure": failure},
            ) from error


_LARGE_EXAMPLE = 64 * 1024
_READING = threading.Lock()
"""One at a time: reading a model again takes milliseconds with the GIL held, and two at once take three times that."""


class Findings(NamedTuple):
    """What the first load of a version found out, and what is true of every load of the same artifacts."""

    spec: ModelSpec
    problem: str | None
    metadata: Model
    """Whole, as JSON calls need them."""
    enforced: ModelSignature | None
    """The part of the signature that `skip_enforcement` has left."""
    accelerator: Accelerator | None

    @classmethod
    def of(cls, model: LoadedModel) -> Findings:
        enforced = model._model.metadata.signature
        return cls(model.spec, model.problem, model.invocations.metadata, enforced, model.accelerator)


def is_read_again(model: LoadedModel, folder: Path) -> bool:
    """Return whether a version, once loaded, can be loaded again by reading it and nothing else.

    A model that only computes needs no second warm-up and no second proof of its contract. One with a large input
    example is not remembered, because the specification holds it.
    """
    how = model.invocations.metadata.flavors["python_function"]
    example = folder / "serving_input_example.json"
    is_small = not example.is_file() or example.stat().st_size <= _LARGE_EXAMPLE
    return is_small and is_computing(model.spec, folder) and not how.get("config")


def is_computing(spec: ModelSpec, folder: Path) -> bool:
    """Return whether the version is a model of a library, without code of its author."""
    return spec.flavor in COMPUTING and not is_python(folder)


def read_model(
    version: ModelVersion,
    folder: Path,
    growth: MemoryGrowth,
    *,
    alone: bool = False,
    known: Findings | None = None,
    accelerate: bool = True,
) -> LoadedModel:
    """Load a version into this process and let it predict its logged input example once.

    Args:
        folder: its artifacts.
        alone: whether no other model shares the process, so that this one may change its state.
        known: from an earlier load of these artifacts into this process, if `is_read_again`.
        accelerate: whether to look for an accelerator.

    Raises:
        ChangesProcess: the load or the prediction changes what other models share; the change is undone.
        ModelUnavailable: the version cannot be loaded; the message says why in one line.
    """
    # As MLflow's server does: text in JSON may then stand for the times and bytes of a type hint.
    _MLFLOW_IS_IN_SERVING_ENVIRONMENT.set(True)
    if known is not None:
        return _read_again(version, folder, known)
    read = partial(_read, version, folder, growth, accelerate=accelerate)
    # Libraries change nothing but what their imports need; Python code may do anything.
    return read() if alone or not is_python(folder) else watch(read, folder / "code")


def _read_again(version: ModelVersion, folder: Path, known: Findings) -> LoadedModel:
    """Do what ``mlflow.pyfunc.load_model`` does, without reading and checking the model's description once more."""
    started = time.perf_counter()
    how = known.metadata.flavors["python_function"]
    with _failures(version), _READING:
        model = PyFuncModel(
            model_meta=copy.copy(known.metadata),
            model_impl=_implementation(folder, known.metadata),
            predict_fn=how.get("predict_fn", "predict"),
            model_id=known.metadata.model_id,
        )
    invocations = Invocations(model)
    model.metadata.signature = known.enforced
    spec = replace(known.spec, load_ms=(time.perf_counter() - started) * 1000)
    log.debug("loaded %s again: ms=%.0f", version, spec.load_ms)
    accelerator = known.accelerator and accelerators.named(known.accelerator.name, model, known.accelerator.layout)
    return LoadedModel(spec, model, known.problem, invocations, accelerator)


def _implementation(folder: Path, metadata: Model) -> Any:
    how = metadata.flavors["python_function"]
    loader = import_module(how["loader_module"])
    own = metadata.flavors.get("sklearn", {})
    if how["loader_module"] == "mlflow.sklearn" and "model_path" in how:
        # What its `_load_pyfunc` does after it has parsed the description, which takes a third of the time.
        trusted, kind = own.get("skops_trusted_types"), own.get("serialization_format", "pickle")
        return loader._SklearnModelWrapper(
            loader._load_model_from_local_file(str(folder / how["model_path"]), kind, trusted)
        )
    return loader._load_pyfunc(str(folder / how.get("data", "")))


@contextmanager
def _failures(version: ModelVersion) -> Iterator[None]:
    """Raise `ModelUnavailable` for every error of a load."""
    try:
        yield
    except BaseException as error:
        log.exception("failed to load %s", version)
        raise ModelUnavailable(f"{version} cannot be loaded: {_reason(error)}", {"model": version.name}) from error


def _load(folder: Path) -> PyFuncModel:
    # MLflow would compare the requirements with what is installed, for a third of the time; `environments` has done so.
    return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)


def _read(version: ModelVersion, folder: Path, growth: MemoryGrowth, *, accelerate: bool) -> LoadedModel:
    started = time.perf_counter()

    def load() -> tuple[PyFuncModel, str | None]:
        model = _load(folder)
        return model, _warm_up(version, model, folder)

    with _failures(version):
        (model, problem), nbytes = growth.measure(load, size_of(folder))
    signature = _signature(version, model)
    invocations = Invocations(model)
    flavor = next((name for name in model.metadata.flavors if name != "python_function"), "python_function")
    spec = ModelSpec(
        name=version.name,
        version=version.version,
        flavor=flavor,
        inputs=signature.get("inputs"),
        outputs=signature.get("outputs"),
        params=signature.get("params"),
        input_example=_serving_example(model, folder),
        metadata=_metadata(version, model),
        hinted=type_hints.input_hint(model) is not None,
        nbytes=nbytes,
        batching=ONE_OBJECT if invocations.takes_json else row_wise.examine(model, flavor, folder),
        takes_json=invocations.takes_json,
        streams=invocations.streams,
        load_ms=(time.perf_counter() - started) * 1000,
    )
    skip_enforcement(model)
    accelerator = accelerators.find(model, spec.inputs) if accelerate and is_computing(spec, folder) else None
    if accelerator is not None:
        spec = replace(spec, accelerator=accelerator.name)
    log.info("loaded %s: flavor=%s ms=%.0f megabytes=%.1f", version, spec.flavor, spec.load_ms, spec.nbytes / 1e6)
    return LoadedModel(spec, model, problem, invocations, accelerator)


def _signature(version: ModelVersion, model: PyFuncModel) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    signature = model.metadata.signature
    if signature is None:
        log.warning("%s has no signature, its input is not validated", version)
        return {}
    return {part: json.loads(text) for part, text in signature.to_dict().items() if text}


def _metadata(version: ModelVersion, model: PyFuncModel) -> dict[str, Any]:
    found = {}
    for key, value in (model.metadata.metadata or {}).items():
        try:
            found[str(key)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            log.warning("ignoring the metadata '%s' of %s: it is no JSON value", key, version)
    return found


def _serving_example(model: PyFuncModel, folder: Path) -> Any:
    """Return the logged input example as the JSON of a scoring request, or None."""
    try:
        text = model.metadata.get_serving_input(str(folder))
        return json.loads(text) if text else None
    except (MlflowException, OSError, ValueError):
        return None


def _warm_up(version: ModelVersion, model: PyFuncModel, folder: Path) -> str | None:
    """Predict the logged input example, so that no caller waits for lazy initialization. Return the problem, if any."""
    try:
        if model.input_example is not None:
            model.predict(model.input_example, params=model.metadata.load_input_example_params(str(folder)))
    except BaseException as error:
        # The example is documentation: a model that rejects it may still answer requests.
        log.warning("%s does not predict its own input example", version, exc_info=True)
        return f"it does not predict its own input example: {_reason(error)}"
    return None


def _reason(error: BaseException) -> str:
    """Describe an error for callers. Its own text may hold paths and secrets, so only the log has it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the library '{error.name}', which is not installed here"
    return f"it raised {type(error).__name__}; the log has the cause"
