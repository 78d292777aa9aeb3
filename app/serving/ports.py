"""Protocols for everything that the serving domain needs from outside.

`app.deployments` implements them with Ray Serve handles, `app.adapters` with MLflow and Feast, ``tests/fakes.py`` in
memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from app.serving.batching.batcher import AnsweredBatch
from app.serving.batching.limits import BatchOverrides
from app.serving.callers import Caller
from app.serving.comparison.statistics import ShadowPair, ShadowResult, Statistics
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.model_spec import ModelSpec
from app.serving.observation import TraceCarrier
from app.serving.placement.load import Backlog
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.table import ModelStatus, Switch
from app.serving.releases.traffic import Traffic, TrafficPlan
from app.serving.rows import Batch, Output


class ModelRegistry(Protocol):
    """The model registry. All methods block: call them in a thread."""

    def models(self) -> Sequence[RegisteredModel]:
        """Return the registered models. A paged search may miss one: only `model` proves that one is gone.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """

    def model(self, name: str) -> RegisteredModel:
        """Return one registered model.

        Raises:
            ModelNotFound: the registry answers that the model does not exist.
            RegistryUnavailable: the registry does not answer.
        """

    def has_version(self, version: ModelVersion) -> bool:
        """Return whether the version exists. Raises `RegistryUnavailable`."""

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
        """Delete a tag of a model, if it exists. Raises as `set_tag`."""


class ModelRunner(Protocol):
    """A pool of replicas that host model versions."""

    async def describe(self, version: ModelVersion) -> ModelSpec:
        """Load the version if necessary, and describe it. Raises `ModelUnavailable` or `PoolUnavailable`."""

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        backlog: Backlog,
        *,
        again: bool = True,
        traces: Sequence[TraceCarrier] = (),
    ) -> Output:
        """Predict one batch. Raises `ModelFailed`, `ModelUnavailable` or `PoolUnavailable`.

        Args:
            backlog: further rows of the version that wait in this gateway replica; the pool scales on them.
            again: whether to send the batch once more if the replica dies.
            traces: spans of the sampled requests of the batch.
        """

    async def invoke(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> bytes:
        """Answer the JSON body of one request with JSON. Raises as `predict`, or `InvalidInput`."""

    def stream(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> AsyncGenerator[str]:
        """Answer the JSON body of one request with the JSON of each event. Close it to stop the model.

        Raises as `invoke`, or `Overloaded`.
        """


class Model(Protocol):
    """A loaded model version; its methods block.

    `problem` is a reason not to promote it, or None. `worker` is the key of the process that holds the model, empty for
    this one.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def problem(self) -> str | None: ...

    @property
    def worker(self) -> str: ...

    def predict(self, batch: Batch) -> Output: ...

    def invoke(self, body: bytes) -> bytes: ...

    def stream(self, body: bytes) -> Iterator[str]: ...


class Authenticator(Protocol):
    """The callers that an operator has admitted."""

    async def caller(self, credential: str) -> Caller:
        """Return the caller of a key or token. Raises `Unauthenticated`, or `Unavailable` if that cannot be told."""

    async def follow(self) -> None:
        """Keep the keys current until cancelled."""


class FeatureStore(Protocol):
    """The online side of the feature store."""

    async def source(self, query: FeatureQuery) -> FeatureSource:
        """Describe a feature view or service. Raises `FeatureSourceNotFound` or `FeatureStoreUnavailable`."""

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier] = ()
    ) -> FeatureRows:
        """Read the features of each entity, a mapping of join key to value. Raises as `source`.

        Args:
            traces: spans of the sampled requests that share the read.
        """


class Directory(Protocol):
    """Current version and pool of each model reference."""

    def known(self, ref: ModelRef) -> ModelVersion | None:
        """Return the version from memory; None where only `resolve` can find it."""

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """Find the version. Raises `ModelNotFound`, or `RegistryUnavailable` for an unknown reference."""

    def batch_overrides(self, name: str) -> BatchOverrides:
        """Return the batch limits in the model's tags, from memory. The batcher calls it before every batch."""

    def contradiction(self, version: ModelVersion) -> str | None:
        """Return how some gateway saw that a version is not row-wise, from memory. Called before every batch."""

    def contradicted(self, version: ModelVersion, reason: str) -> None:
        """Tell all gateway replicas that a version is not row-wise."""

    def traffic(self, name: str) -> Traffic | None:
        """Return the traffic split and the shadow of the bare name, from memory; None without both."""

    def runner(self, name: str) -> ModelRunner:
        """Return the pool that hosts the model. Raises `ModelUnavailable` where that pool is not configured."""


class ModelManager(Protocol):
    """Load, unload, promote and roll back versions, and report the state of the platform."""

    @property
    def ready(self) -> bool:
        """Whether every version that should be resident is loaded or has failed."""

    async def load(self, ref: ModelRef) -> ModelVersion:
        """Load a version, and return when it is warm on every replica that should hold it.

        Raises `ModelNotFound`, `ModelUnavailable` with the cause, or `RegistryUnavailable`.
        """

    async def unload(self, ref: ModelRef) -> ModelVersion:
        """Unload a version from every replica. Raises `ModelNotFound`."""

    async def promote(self, version: ModelVersion, *, alias: str | None = None, force: bool = False) -> Switch:
        """Warm up a version, move an alias to it, and return when every gateway replica answers with it.

        Args:
            alias: None means the default alias.
            force: promote a version with an incompatible signature, or one that fails its input example.

        Raises:
            ModelNotFound: the model has no such READY version.
            ModelUnavailable: the version cannot be loaded; the message contains the cause.
            Conflict: the signature is incompatible, or the input example fails; the message says how.
            RegistryReadOnly: the registry is read-only.
            RegistryUnavailable: the registry does not answer.
        """

    async def rollback(self, name: str, *, alias: str | None = None) -> Switch:
        """Move an alias back to its previous version. A second rollback changes nothing.

        Raises as `promote`. `Conflict` means here that no previous version is known, or that the alias moved to another
        version during the rollback.
        """

    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        """Set the traffic split and the shadow of the bare name.

        Raises:
            ModelNotFound: the model or one of the aliases does not exist.
            RegistryReadOnly, RegistryUnavailable.
        """

    async def status(self) -> Sequence[ModelStatus]:
        """Return the status of every registered model."""

    async def model(self, name: str) -> ModelStatus:
        """Return the status of one registered model. Raises `ModelNotFound`."""

    async def statistics(self, version: ModelVersion) -> Statistics:
        """Return the counts of a version, summed over gateway replicas."""

    async def health(self) -> Mapping[str, Any]:
        """Return each part behind the gateway with its ``status``: ``ok``, ``degraded`` or ``unavailable``."""

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        """Return each replica's name, ``deployment`` and ``rss_bytes``; a pool's ``models`` and ``model_bytes`` too."""


class Recorder(Protocol):
    """Count requests and their times. The request path calls it: it must be cheap and must not raise."""

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        """Count an answered request."""

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        """Count a failed request; `version` is None where the request failed before its version was known."""

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        """Count a predicted batch."""

    def repeated(self, version: ModelVersion, requests: int) -> None:
        """Count requests that are predicted again because an answer contradicts the version's batching contract."""

    def stream_started(self, version: ModelVersion) -> None:
        """Count a stream whose first event is there."""

    def stream_ended(self, version: ModelVersion, events: int) -> None:
        """Count a stream that ended and the events that it had."""

    # Only for models with traffic:

    def divided(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        """Count an answered request for the bare name; `prediction` is the mean of the numbers in the answer."""

    def divided_failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        """Count a failed request for the bare name."""

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        """Count a shadow request that ended."""

    def shadow_dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        """Count a shadow request that was not sent."""
