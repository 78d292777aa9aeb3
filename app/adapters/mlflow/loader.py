"""Load model versions from the MLflow registry as pyfunc models, ready to predict batches.

Only versions of the configured registry are loaded, never a URI from a request: some formats run code when read.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from app.adapters.artifacts.cache import ArtifactCache, CachedArtifacts, is_full
from app.adapters.artifacts.layout import size_of
from app.adapters.mlflow import row_wise
from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.identities import Identities
from app.adapters.mlflow.invocations import Invocations
from app.adapters.mlflow.memory import MemoryGrowth
from app.adapters.mlflow.model_io import model_input, model_output, model_params
from app.adapters.mlflow.registry import MlflowRegistry, registered_ms
from app.errors import ModelFailed, ModelNotFound, ModelUnavailable, RegistryUnavailable, ServingError
from app.serving.batching_contract import ONE_OBJECT
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

log = logging.getLogger(__name__)


class LoadedModel:
    """A model version in memory.

    `problem` is a sentence, or None. A version with a problem answers requests by its number, but should not replace
    another version behind an alias. `invocations` keeps the enforcement that `model` may lack.
    """

    def __init__(
        self, spec: ModelSpec, model: PyFuncModel, problem: str | None = None, invocations: Invocations | None = None
    ) -> None:
        self.spec = spec
        self.problem = problem
        self._model = model
        self.invocations = invocations or Invocations(model)
        self.invoke, self.stream = self.invocations.invoke, self.invocations.stream

    def predict(self, batch: Batch) -> Output:
        """Predict one batch; blocks.

        Raises:
            ModelFailed: the model raised, or its answer cannot be converted; ``details["failure"]`` is the number
                under which the log has the cause.
        """
        try:
            prediction = self._model.predict(model_input(batch), params=model_params(batch))
            return model_output(prediction)
        except ServingError:
            raise
        except Exception as error:
            failure = uuid.uuid4().hex[:12]
            log.exception("prediction failed: model=%s rows=%d failure=%s", self.spec.key, batch.count, failure)
            raise ModelFailed(
                f"the model raised {type(error).__name__} while predicting; the log has the cause",
                {"failure": failure},
            ) from error


class ModelLoader:
    """Downloads, loads and warms model versions. Every method blocks. Thread-safe."""

    def __init__(
        self, registry: MlflowRegistry, cache_folder: Path, cache_bytes: int = 0, load_timeout_s: float = 300.0
    ) -> None:
        self._cache = ArtifactCache(cache_folder, registry.download, cache_bytes, load_timeout_s)
        self.cache_counts = self._cache.counts
        self._identities = Identities(registry.identity)
        self._created: Mapping[str, int] = {}
        self._growth = MemoryGrowth()
        sys.dont_write_bytecode = True  # next to a model's own code it would look like damage

    def expect(self, created: Mapping[str, int]) -> None:
        """Reject cached versions older than their model. `created`: registration time by name, milliseconds."""
        self._created = created

    def forget(self, name: str) -> None:
        """Ask the registry again about the versions of a model that was deleted or registered again."""
        self._identities.forget(name)

    def drop_if_deleted(self, version: ModelVersion) -> None:
        """Remove an unloaded version from the cache if it no longer exists. Never raises."""
        self._identities.forget_version(version)
        try:
            self._identities.get(version)
        except ModelNotFound:
            self._cache.remove(version)
        except ServingError as error:
            log.info("not known whether %s still exists: %s", version, error.message)

    def load(self, version: ModelVersion) -> LoadedModel:
        """Load a version and let it predict its logged input example once.

        Raises:
            ModelNotFound: the registry has no such version.
            RegistryUnavailable: the registry does not respond, and the version is not cached.
            ModelUnavailable: the artifacts cannot be downloaded or loaded; the message says why in one line.
        """
        started = time.perf_counter()
        artifacts = self._artifacts(version)
        try:
            model = self._read(version, artifacts.folder, started)
        except BaseException:
            artifacts.release()
            raise
        # Some models read their files while they predict, so the files stay as long as the model does.
        weakref.finalize(model, artifacts.release)
        return model

    def _read(self, version: ModelVersion, folder: Path, started: float) -> LoadedModel:
        def load() -> tuple[PyFuncModel, str | None]:
            model = mlflow.pyfunc.load_model(str(folder))
            return model, _warm_up(version, model, folder)

        try:
            (model, problem), nbytes = self._growth.measure(load, size_of(folder))
        except Exception as error:
            log.exception("failed to load %s", version)
            raise ModelUnavailable(f"{version} cannot be loaded: {_reason(error)}", {"model": version.name}) from error
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
            nbytes=nbytes,
            batching=ONE_OBJECT if invocations.takes_json else row_wise.examine(model, flavor, folder),
            takes_json=invocations.takes_json,
            streams=invocations.streams,
            load_ms=(time.perf_counter() - started) * 1000,
        )
        skip_enforcement(model)
        log.info("loaded %s: flavor=%s ms=%.0f megabytes=%.1f", version, spec.flavor, spec.load_ms, spec.nbytes / 1e6)
        return LoadedModel(spec, model, problem, invocations)

    def _artifacts(self, version: ModelVersion) -> CachedArtifacts:
        try:
            if not self._identities.is_worth_asking(version) and (cached := self._cached(version)) is not None:
                return cached
            try:
                identity = self._identities.get(version)
            except RegistryUnavailable as error:
                if (cached := self._cached(version)) is not None:
                    return cached
                raise RegistryUnavailable(
                    f"the model registry does not answer, and {version} is not cached here"
                ) from error
            return self._cache.get(version, identity)
        except (MlflowException, OSError) as error:
            log.exception("failed to download the artifacts of %s", version)
            why = "the disk of the artifact cache is full" if is_full(error) else "the log has the cause"
            raise ModelUnavailable(
                f"the artifacts of {version} cannot be downloaded; {why}", {"model": version.name}
            ) from error

    def _cached(self, version: ModelVersion) -> CachedArtifacts | None:
        """Return a copy to use without the registry: of the last known identity, or of any if none is known."""
        if self._identities.is_doubtful(version):
            return None
        cached = self._cache.find(version, self._identities.last(version))
        if cached is not None and registered_ms(cached.identity) < self._created.get(version.name, 0):
            cached.release()
            return None
        return cached


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
    except Exception as error:
        # The example is documentation: a model that rejects it may still answer requests.
        log.warning("%s does not predict its own input example", version, exc_info=True)
        return f"it does not predict its own input example: {_reason(error)}"
    return None


def _reason(error: Exception) -> str:
    """Describe an error for callers. Its own text may hold paths and secrets, so only the log has it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the library '{error.name}', which is not installed here"
    return f"it raised {type(error).__name__}; the log has the cause"
