"""What the serving domain needs from outside, as Protocols, and the values that cross them.

`app.deployments` implements them over Ray Serve handles and `app.adapters` over MLflow and Feast;
``tests/fakes.py`` has them in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app.serving.batching.limits import BatchOverrides
from app.serving.batching.batcher import AnsweredBatch
from app.serving.references import ModelRef, ModelVersion
from app.serving.placement.load import Backlog
from app.serving.releases.table import ModelStatus, Switch
from app.serving.rows import Batch, Output
from app.serving.comparison.counters import (
    NOTHING_COPIED,
    NOTHING_DIVIDED,
    ShadowCounts,
    ShadowPair,
    ShadowResult,
    VariantCounts,
)
from app.serving.releases.traffic import Traffic, TrafficPlan


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model version once it is loaded. All of it is plain data.

    `inputs`, `outputs` and `params` are the parsed JSON of MLflow's signature (``ModelSignature.to_dict()``), None
    where the model was logged without. `input_example` is the logged one as JSON values, and `metadata` what was logged
    under that name.
    """

    name: str
    version: str
    flavor: str
    inputs: Sequence[Mapping[str, Any]] | None = None
    outputs: Sequence[Mapping[str, Any]] | None = None
    params: Sequence[Mapping[str, Any]] | None = None
    input_example: Any = None
    nbytes: int = 0
    load_ms: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> ModelVersion:
        return ModelVersion(self.name, self.version)


class FeatureQuery(NamedTuple):
    """Where features come from: exactly one of a feature view and a feature service."""

    view: str | None
    service: str | None

    def __str__(self) -> str:
        return f"feature view '{self.view}'" if self.view else f"feature service '{self.service}'"


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A feature view or service as the store defines it: its join keys and its features' names, in order."""

    join_keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features read for some entities: per feature one list of values, None where the store has no value.

    `found` says per entity whether the store knows it at all.
    """

    columns: Mapping[str, Sequence[Any]]
    found: Sequence[bool]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model as the registry shows it: aliases to versions, its tags and its newest READY version.

    `created`, in milliseconds, tells it from a model that is registered under its name after it was deleted.
    """

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    latest: str | None = None
    created: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was counted for one model version since its gateway replicas started.

    `requests` were answered, in `request_seconds` together, and there is the sum of their squares; `failures` were
    answered with an error after the version was known, and `faults` are those among them that count against it
    (`app.serving.comparison.error_attribution`). `replicas` is how many gateway replicas have told. `variant` and `shadows` (by the version
    whose requests were copied) are of models with traffic, since that last changed.
    """

    requests: int = 0
    rows: int = 0
    failures: int = 0
    batches: int = 0
    request_seconds: float = 0.0
    batch_seconds: float = 0.0
    faults: int = 0
    replicas: int = 0
    variant: VariantCounts = NOTHING_DIVIDED
    shadows: Mapping[str, ShadowCounts] = field(default_factory=dict)
    request_seconds_squared: float = 0.0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.requests + other.requests,
            self.rows + other.rows,
            self.failures + other.failures,
            self.batches + other.batches,
            self.request_seconds + other.request_seconds,
            self.batch_seconds + other.batch_seconds,
            self.faults + other.faults,
            self.replicas + other.replicas,
            self.variant + other.variant,
            {
                version: self.shadows.get(version, NOTHING_COPIED) + other.shadows.get(version, NOTHING_COPIED)
                for version in {*self.shadows, *other.shadows}
            },
            self.request_seconds_squared + other.request_seconds_squared,
        )


class ModelRegistry(Protocol):
    """The registry, read. Blocking: called off the event loop."""

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, or nearly: only `model` tells that one is gone. Raises `RegistryUnavailable`."""

    def model(self, name: str) -> RegisteredModel:
        """One registered model. Raises `ModelNotFound`, which is the registry's own word, or `RegistryUnavailable`."""

    def has_version(self, version: ModelVersion) -> bool:
        """Whether the version exists. Raises `RegistryUnavailable`."""


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
