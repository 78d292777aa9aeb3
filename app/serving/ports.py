"""What the serving domain needs from outside, as Protocols, and the values that cross them.

`app.deployments` implements them over Ray Serve handles and `app.adapters` over MLflow and Feast;
``tests/fakes.py`` has them in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.serving.batching.batcher import AnsweredBatch
from app.serving.batching.limits import BatchOverrides
from app.serving.comparison.statistics import ShadowPair, ShadowResult, Statistics
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import Backlog
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.table import ModelStatus, Switch
from app.serving.releases.traffic import Traffic, TrafficPlan
from app.serving.rows import Batch, Output


class ModelRegistry(Protocol):
    """The model registry. Its methods block: call them off the event loop."""

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, or nearly: only `model` tells that one is gone. Raises `RegistryUnavailable`."""

    def model(self, name: str) -> RegisteredModel:
        """One registered model. Raises `ModelNotFound`, which is the registry's own word, or `RegistryUnavailable`."""

    def has_version(self, version: ModelVersion) -> bool:
        """Whether the version exists. Raises `RegistryUnavailable`."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version.

        Raises:
            ModelNotFound: no such model, or no such READY version.
            InvalidReference: MLflow does not accept the alias.
            RegistryReadOnly, RegistryUnavailable.
        """

    def set_tag(self, name: str, tag: str, value: str) -> None:
        """Set a tag of a model. Raises `ModelNotFound`, `InvalidRequest`, `RegistryReadOnly`, `RegistryUnavailable`."""

    def delete_tag(self, name: str, tag: str) -> None:
        """Delete a tag of a model; a missing tag is no error. Raises as `set_tag` does."""


class ModelRunner(Protocol):
    """A pool of model replicas, called by version."""

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """Load the version where needed and tell what it is. Raises `ModelUnavailable` or `PoolUnavailable`."""

    async def predict(self, version: ModelVersion, batch: Batch, backlog: Backlog, *, again: bool = True) -> Output:
        """Predict one batch. Raises `ModelFailed`, `ModelUnavailable` or `PoolUnavailable`.

        Args:
            backlog: what waits here for the version besides; pools are scaled on it.
            again: send it once more where the replica dies with it.
        """


class FeatureStore(Protocol):
    """The feature store's online side."""

    async def source(self, query: FeatureQuery) -> FeatureSource:
        """Raises `FeatureSourceNotFound` or `FeatureStoreUnavailable`."""

    async def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        """Features of each entity (join key to value). Raises as `source` does."""


class Directory(Protocol):
    """Which version a reference means now, and which pool hosts it."""

    def known(self, ref: ModelRef) -> ModelVersion | None:
        """The version, from memory; None where it must be asked for with `resolve`."""

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """Raises `ModelNotFound`, or `RegistryUnavailable` for a reference never seen before."""

    def batch_overrides(self, name: str) -> BatchOverrides:
        """How the model's tags want it batched, from memory. Asked before every batch."""

    def traffic(self, name: str) -> Traffic | None:
        """How the calls to the bare name are divided and copied, from memory; None where they are not."""

    def runner(self, name: str) -> ModelRunner:
        """The pool that hosts the model. Raises `ModelUnavailable` where that pool is not configured."""


class ModelManager(Protocol):
    """Makes versions resident, lets them go, and tells what is served."""

    @property
    def ready(self) -> bool:
        """Whether everything that should be resident is loaded, or known to have failed."""

    async def load(self, ref: ModelRef) -> ModelVersion:
        """Returns once the version is warm on every replica of its pool.

        Raises `ModelNotFound`, `ModelUnavailable` with the cause, or `RegistryUnavailable`.
        """

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Raises `ModelNotFound`."""

    async def promote(self, version: ModelVersion, *, alias: str | None = None, force: bool = False) -> Switch:
        """Warm a version, then move an alias to it; returns once every gateway answers with it.

        Args:
            alias: the default alias where it is None.
            force: move it although the version takes other inputs than the one before, or fails its own example.

        Raises:
            ModelNotFound: no such version that is ready.
            ModelUnavailable: it cannot be loaded; the cause is in the message.
            Conflict: it takes other inputs, or fails its own example; the message says what.
            RegistryReadOnly: the registry cannot be written to.
            RegistryUnavailable: the registry does not answer.
        """

    async def rollback(self, name: str, *, alias: str | None = None) -> Switch:
        """Move an alias back to what it answered before; a second time changes nothing.

        Raises as `promote`, and `Conflict` where nothing is known of an earlier version, or the alias was moved to yet
        another one while that was loaded.
        """

    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        """Divide the calls to the bare name, and copy them.

        Raises:
            ModelNotFound: no such model, or it has no such alias.
            RegistryReadOnly, RegistryUnavailable.
        """

    async def status(self) -> Sequence[ModelStatus]:
        """Every registered model."""

    async def model(self, name: str) -> ModelStatus:
        """One registered model. Raises `ModelNotFound`."""

    async def statistics(self, version: ModelVersion) -> Statistics:
        """What all gateway replicas have counted."""

    async def health(self) -> Mapping[str, Any]:
        """Each part behind the gateway with its ``status`` (``ok``, ``degraded``, ``unavailable``), JSON values."""

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        """Each replica's ``replica``, ``deployment`` and ``rss_bytes``; a pool's ``models`` and ``model_bytes`` too."""


class Recorder(Protocol):
    """Counts and times what happens. Called on the request path: must be cheap and must not raise."""

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        """A request was answered."""

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        """A request for a model was answered with the error of this code; `version` is None where it was not known."""

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        """One batch was predicted."""

    # Of models with traffic alone:

    def divided(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        """A call of the bare name was answered; `prediction` is the mean of the numbers in the answer."""

    def divided_failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        """A call of the bare name was answered with the error of this code."""

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        """A copy came to an end."""

    def shadow_dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        """A copy was not sent."""
