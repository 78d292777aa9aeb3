"""Load model versions from the MLflow registry as pyfunc models, ready to predict batches.

Only versions of the configured registry are loaded, never a URI from a request: some formats run code when read.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cachetools import LRUCache
from mlflow.exceptions import MlflowException

from app.adapters.artifacts.cache import ArtifactCache, CachedArtifacts, is_full
from app.adapters.artifacts.verification import SignatureVerifier
from app.adapters.mlflow.code import code_in
from app.adapters.mlflow.environments import Environment, environment_of, is_python
from app.adapters.mlflow.identities import Identities
from app.adapters.mlflow.loaded_model import Findings, LoadedModel, is_read_again, read_model
from app.adapters.mlflow.memory import MemoryGrowth
from app.adapters.mlflow.overlays import Overlays
from app.adapters.mlflow.process_state import ChangesProcess
from app.adapters.mlflow.registry import MlflowRegistry, registered_ms
from app.errors import EnvironmentMissing, ModelNotFound, ModelUnavailable, RegistryUnavailable, ServingError
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.releases.tags import ISOLATION_TAG
from app.settings import EnvironmentSettings, SignatureSettings

log = logging.getLogger(__name__)


_MOST_KNOWN = 1024
"""Versions whose findings a process remembers, for the time after an eviction."""

_REFUSED_COPY_S = 300.0
"""Seconds for which a download without a valid signature is kept, so that retries do not download it again and again.
Then the store may have the signature, or the right files."""

ENVIRONMENTS = "environments"
"""Folder of the overlays in the artifact cache; no model's folder has a name without a version below it."""


class WorkerProcesses(Protocol):
    """Processes for versions that cannot share the one of the pool replica."""

    def load(
        self,
        version: ModelVersion,
        folder: Path,
        environment: Environment,
        overlay: Path | None,
        ended: Callable[[], None],
    ) -> Model:
        """Load a version in the worker of its environment, which is started if it does not run; blocks.

        Args:
            folder: the version's artifacts.
            overlay: libraries that come before the installed ones.
            ended: called when the worker that has loaded the version uses the artifacts no more.

        Raises:
            ChangesProcess: the load changes what other models of the worker share.
            ModelUnavailable: the version cannot be loaded, or the worker died.
        """


class ModelLoader:
    """Downloads, loads and warms model versions. Every method blocks. Thread-safe.

    Args:
        workers: None reads every version into this process.
        accelerates: returns whether a model may get an accelerator.

    Raises:
        StartupError: signatures are required and cannot be checked here.
    """

    def __init__(
        self,
        registry: MlflowRegistry,
        cache_folder: Path,
        cache_bytes: int = 0,
        load_timeout_s: float = 300.0,
        *,
        workers: WorkerProcesses | None = None,
        environments: EnvironmentSettings | None = None,
        signatures: SignatureSettings | None = None,
        accelerates: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._verifier = SignatureVerifier(signatures or SignatureSettings())
        self._cache = ArtifactCache(cache_folder, registry.download, cache_bytes, load_timeout_s)
        self.cache_counts = self._cache.counts
        self._identities = Identities(registry.identity)
        self._created: Mapping[str, int] = {}
        self._growth = MemoryGrowth()
        self._workers = workers
        self._environments = environments or EnvironmentSettings()
        self._overlays = Overlays(
            cache_folder / ENVIRONMENTS,
            may_build=self._environments.build == "allow",
            index_url=self._environments.index_url,
            timeout_s=self._environments.build_timeout_s,
        )
        self._accelerates = accelerates
        self._missing: dict[ModelVersion, Environment] = {}
        self._alone: dict[ModelVersion, str] = {}
        self._isolated: dict[ModelVersion, str] = {}
        self._isolated_models: frozenset[str] = frozenset()
        self._known: LRUCache[tuple[ModelVersion, str], Findings] = LRUCache(_MOST_KNOWN)
        sys.dont_write_bytecode = True  # next to a model's own code it would look like damage

    def expect(self, created: Mapping[str, int]) -> None:
        """Reject cached versions older than their model. `created`: registration time by name, milliseconds."""
        self._created = created

    def forget(self, name: str) -> None:
        """Ask the registry again about the versions of a model that was deleted or registered again."""
        self._identities.forget(name)

    def isolate(self, version: ModelVersion, reason: str) -> None:
        """Have all later loads of a version end in a worker of its own. `reason` is a clause."""
        self._isolated.setdefault(version, reason)

    def reunite(self, version: ModelVersion) -> None:
        """End what `isolate` began."""
        self._isolated.pop(version, None)

    def isolate_models(self, names: frozenset[str]) -> None:
        """Have all later loads of these models end in workers of their own, instead of those that were named before."""
        self._isolated_models = names

    def drop_if_deleted(self, version: ModelVersion) -> None:
        """Remove an unloaded version from the cache if it no longer exists. Never raises."""
        self._identities.forget_version(version)
        try:
            self._identities.get(version)
        except ModelNotFound:
            self._cache.remove(version)
        except ServingError as error:
            log.info("not known whether %s still exists: %s", version, error.message)

    def load(self, version: ModelVersion) -> Model:
        """Load a version and let it predict its logged input example once.

        Raises:
            ModelNotFound: the registry has no such version.
            RegistryUnavailable: the registry does not respond, and the version is not cached.
            EnvironmentMissing: the version can be loaded after `build`.
            ModelUnavailable: the artifacts cannot be downloaded, verified or loaded; the message says why in one line.
        """
        artifacts = self._artifacts(version)
        try:
            known = self._known.get((version, artifacts.identity))  # then nothing in it needs a process of its own
            if known is not None and self._why_isolated(version) is None:
                return self._read_here(version, artifacts, known)
            environment = self._environment(version, artifacts.folder)
            while True:
                try:
                    return self._read(version, artifacts, environment)
                except ChangesProcess as change:
                    self._alone[version] = f"it changes {', '.join(change.args)} when it is loaded"
                    log.warning("%s gets a process of its own: %s", version, self._alone[version])
                    environment = environment.only_for(version, self._alone[version])
        except BaseException:
            artifacts.release()
            raise

    def build(self, version: ModelVersion) -> None:
        """Build the environment of a version whose load raised `EnvironmentMissing`. Raises as `load`."""
        environment = self._missing.pop(version, None)
        if environment is not None:
            artifacts = self._artifacts(version)  # a wheel among them may be installed
            try:
                self._overlays.build(environment)
            except ModelUnavailable as error:
                raise _unloadable(version, error.message) from error
            finally:
                artifacts.release()

    def _environment(self, version: ModelVersion, folder: Path) -> Environment:
        if self._environments.code == "refuse" and (found := code_in(folder)) is not None:
            raise _unloadable(version, f"{found} would run code, which the setting environments.code refuses")
        environment = environment_of(folder)
        if environment.contradictions and self._environments.mismatch != "isolate":
            needed = ", ".join(environment.contradictions)
            if self._environments.mismatch == "refuse":
                raise _unloadable(version, f"it requires {needed}")
            log.warning("%s is loaded although it requires %s", version, needed)
            environment = environment.with_installed()
        isolate = self._environments.isolate
        if isolate == "all" or (isolate == "python" and is_python(folder)):
            return environment.only_for(version, f"the setting environments.isolate is {isolate}")
        alone = self._alone.get(version) or self._why_isolated(version)
        return environment.only_for(version, alone) if alone else environment

    def _why_isolated(self, version: ModelVersion) -> str | None:
        if version.name in self._isolated_models:
            return f"its tag {ISOLATION_TAG} is process"
        return self._isolated.get(version)

    def _read(self, version: ModelVersion, artifacts: CachedArtifacts, environment: Environment) -> Model:
        if environment.key and self._workers is not None:
            overlay = self._overlay(version, environment)
            return self._workers.load(version, artifacts.folder, environment, overlay, artifacts.release)
        model = self._read_here(version, artifacts, None)
        if is_read_again(model, artifacts.folder):
            self._known[version, artifacts.identity] = Findings.of(model)
        return model

    def _read_here(self, version: ModelVersion, artifacts: CachedArtifacts, known: Findings | None) -> LoadedModel:
        model = read_model(
            version,
            artifacts.folder,
            self._growth,
            alone=self._workers is None,
            known=known,
            accelerate=self._accelerates(version.name),
        )
        # Some models read their files while they predict, so the files stay as long as the model does.
        weakref.finalize(model, artifacts.release)
        return model

    def _overlay(self, version: ModelVersion, environment: Environment) -> Path | None:
        if not environment.requirements:
            return None
        overlay = self._overlays.find(environment)
        if overlay is None:
            self._missing[version] = environment
            raise EnvironmentMissing(f"building the environment: {environment.reason}")
        return overlay

    def _artifacts(self, version: ModelVersion) -> CachedArtifacts:
        """Return the artifacts of a version; whatever reads them gets them from here.

        Raises:
            ModelUnavailable: they cannot be downloaded, or the signature that they need is missing or wrong.
        """
        artifacts = self._unverified(version)
        try:
            fault = self._verifier.fault_in(version.name, artifacts.folder)
        except (OSError, ValueError) as error:
            artifacts.release()
            log.exception("failed to check the signature of %s", version)
            raise _unloadable(version, "its signature cannot be checked; the log has the cause") from error
        except BaseException:
            artifacts.release()
            raise
        if fault is not None:
            artifacts.release()
            self._cache.remove(version, _REFUSED_COPY_S)
            raise _unloadable(version, fault)
        return artifacts

    def _unverified(self, version: ModelVersion) -> CachedArtifacts:
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


def _unloadable(version: ModelVersion, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{version} cannot be loaded: {why}", {"model": version.name})
