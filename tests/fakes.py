"""In-memory implementations of `app.serving.ports`: models are functions, the registry is a dict, features are tables.

::

    fakes = make_fakes({"prices": total("oil", "gas")})
    await fakes.service.predict(...)      # the use case
    fakes.app                             # the real ASGI application over it
    fakes.runner.batches                  # the batches that reached the models

Models are named by reference: ``"prices"`` is version 1, ``"prices/versions/2"`` is version 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from app.api.app import create_app
from app.api.http.access import EVERYBODY, Access
from app.api.http.exchange import HttpLimits
from app.api.http.hot_routes import HotRoutes
from app.api.http.observation import Observer
from app.errors import (
    Conflict,
    FeatureSourceNotFound,
    InvalidInput,
    ModelNotFound,
    ModelUnavailable,
    RegistryReadOnly,
    RegistryUnavailable,
    ServingError,
)
from app.serving.batching.batcher import AnsweredBatch
from app.serving.batching.limits import NO_OVERRIDES, BatchOverrides
from app.serving.batching_contract import BatchingContract
from app.serving.comparison.statistics import ShadowPair, ShadowResult, Statistics
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.model_spec import ModelSpec
from app.serving.observation import TraceCarrier
from app.serving.placement.load import Backlog
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, ModelVersion, parse_ref
from app.serving.releases.alias_state import PROMOTED, ROLLED_BACK, AliasState
from app.serving.releases.table import ModelStatus, Switch
from app.serving.releases.traffic import Traffic, TrafficPlan
from app.serving.rows import Array, Batch, Output
from app.serving.signatures.compatibility import incompatibilities
from app.settings import BatchSettings, Limits, ShadowSettings

DEFAULT_ALIAS = "champion"


@dataclass(frozen=True)
class FakeModel:
    """A model version: its predict function, and its signature as MLflow's JSON.

    `invoke` and `stream` answer JSON bodies; without `stream` it cannot stream.
    Loading raises `error`, if set. `example` is the logged input example. `row_wise` is its proven batching contract.
    """

    predict: Callable[[Batch], Output]
    inputs: Sequence[Mapping[str, Any]] | None = None
    outputs: Sequence[Mapping[str, Any]] | None = None
    params: Sequence[Mapping[str, Any]] | None = None
    example: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: ServingError | None = None
    nbytes: int = 1_000_000
    row_wise: bool = True
    hinted: bool = False
    invoke: Callable[[bytes], bytes] | None = None
    stream: Callable[[bytes], Generator[str]] | None = None
    takes_json: bool = False


def columns(*names: str, type: str = "double") -> list[dict[str, Any]]:
    """Return the inputs of a signature, all of one type."""
    return [{"name": name, "type": type, "required": True} for name in names]


def tensor(array: Array) -> Output:
    """Return an output of one array."""
    return Output("tensor", (), (array,), len(array))


def total(*names: str, offset: float = 0.0) -> FakeModel:
    """Return a model that adds up its columns."""
    return FakeModel(lambda batch: tensor(np.sum(batch.arrays, axis=0) + offset), columns(*names))


def failing(error: Exception, *names: str) -> FakeModel:
    """Return a model that raises while predicting."""

    def predict(batch: Batch) -> Output:
        raise error

    return FakeModel(predict, columns(*names))


class FakeRunner:
    """A `ModelRunner`. Keeps every batch in `batches`; a call takes `delay_s` seconds."""

    def __init__(self, models: Mapping[ModelVersion, FakeModel], delay_s: float = 0.0) -> None:
        self._models = models
        self.delay_s = delay_s
        self.batches: list[tuple[ModelVersion, Batch]] = []

    async def describe(self, version: ModelVersion) -> ModelSpec:
        model = self._models[version]
        if model.error is not None:
            raise model.error
        return ModelSpec(
            *version,
            flavor="fake",
            inputs=model.inputs,
            outputs=model.outputs,
            params=model.params,
            input_example=model.example,
            metadata=model.metadata,
            nbytes=model.nbytes,
            load_ms=1.0,
            batching=BatchingContract(model.row_wise, "proven" if model.row_wise else "disproved"),
            hinted=model.hinted,
            takes_json=model.takes_json,
            streams=model.stream is not None,
        )

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        backlog: Backlog,
        *,
        again: bool = True,
        traces: Sequence[TraceCarrier] = (),
    ) -> Output:
        self.batches.append((version, batch))
        await asyncio.sleep(self.delay_s)
        return self._models[version].predict(batch)

    async def invoke(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> bytes:
        await asyncio.sleep(self.delay_s)
        answer = self._models[version].invoke
        if answer is None:  # as MLflow's enforcement says it
            raise InvalidInput("the model does not take this body")
        return answer(body)

    async def stream(
        self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()
    ) -> AsyncGenerator[str]:
        start = self._models[version].stream
        assert start is not None
        with closing(start(body)) as events:
            for event in events:
                await asyncio.sleep(self.delay_s)
                yield event


class FakeDirectory:
    """A `Directory`. While `down`, it knows only resolved references. Tests may change `aliases` and `overrides`."""

    def __init__(
        self,
        models: Mapping[ModelVersion, FakeModel],
        aliases: Mapping[str, Mapping[str, str]],
        runner: FakeRunner,
    ) -> None:
        self._models = models
        self.aliases = {name: dict(given) for name, given in aliases.items()}
        self._runner = runner
        self._known: set[ModelVersion] = set()
        self.overrides: dict[str, BatchOverrides] = {}
        self.traffics: dict[str, Traffic] = {}
        self.contradictions: dict[ModelVersion, str] = {}
        self.down = False

    def names(self) -> list[str]:
        return sorted({version.name for version in self._models})

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model, oldest first."""
        return sorted((v for v in self._models if v.name == name), key=lambda v: int(v.version))

    def known(self, ref: ModelRef) -> ModelVersion | None:
        if ref.pinned is not None:
            return ref.pinned if ref.pinned in self._known else None
        aliases = self.aliases.get(ref.name, {})
        number = aliases.get(ref.alias or DEFAULT_ALIAS)
        if number is None and ref.alias is None and self.versions(ref.name):
            number = self.versions(ref.name)[-1].version
        return ModelVersion(ref.name, number) if number is not None else None

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        version = self.known(ref)
        if version is None and self.down:
            raise RegistryUnavailable("the model registry does not answer")
        version = version or ref.pinned
        if version is None or version not in self._models:
            raise ModelNotFound(f"there is no registered model '{ref}'", {"model": ref.name})
        self._known.add(version)
        return version

    def batch_overrides(self, name: str) -> BatchOverrides:
        return self.overrides.get(name, NO_OVERRIDES)

    def contradiction(self, version: ModelVersion) -> str | None:
        return self.contradictions.get(version)

    def contradicted(self, version: ModelVersion, reason: str) -> None:
        self.contradictions[version] = reason

    def traffic(self, name: str) -> Traffic | None:
        return self.traffics.get(name)

    def runner(self, name: str) -> FakeRunner:
        return self._runner


class FakeManager:
    """A `ModelManager`.

    Tests may change `ready`, `parts` (of the health), `replicas` (their usage), `counted` and `counted_of` (statistics
    of all and of single versions), `desired`, `blocked`, `problems` and `read_only`.
    """

    def __init__(self, directory: FakeDirectory) -> None:
        self._directory = directory
        self._states: dict[ModelVersion, dict[str, Any]] = {}
        self.desired: dict[str, dict[str, str]] = {}
        self.blocked: dict[str, dict[str, str]] = {}
        self.problems: dict[str, list[str]] = {}
        self.plans: dict[str, TrafficPlan] = {}
        self.read_only = False
        self._live: dict[tuple[str, str], AliasState] = {}
        self.ready = True
        self.parts: dict[str, dict[str, Any]] = {
            "registry": {"status": "ok"},
            "models": {"status": "ok"},
            "pools": {"status": "ok"},
            "feature_store": {"status": "ok"},
        }
        self.counted = Statistics()
        self.counted_of: dict[ModelVersion, Statistics] = {}
        self.replicas: list[dict[str, Any]] = [{"replica": "g1", "deployment": "Gateway", "rss_bytes": 150_000_000}]

    async def load(self, ref: ModelRef) -> ModelVersion:
        version = await self._directory.resolve(ref)
        try:
            spec = await self._directory.runner(version.name).describe(version)
        except ServingError as error:
            self._states[version] = _facts("failed", error=error.message)
            raise ModelUnavailable(error.message, error.details) from error
        self._states[version] = _facts("ready", replicas=1, nbytes=spec.nbytes, load_ms=spec.load_ms)
        return version

    async def unload(self, ref: ModelRef) -> ModelVersion:
        version = await self._directory.resolve(ref)
        self._states.pop(version, None)
        return version

    async def promote(self, version: ModelVersion, *, alias: str | None = None, force: bool = False) -> Switch:
        self._refuse_read_only()
        await self.load(ModelRef(version.name, version=version.version))
        alias = alias or DEFAULT_ALIAS
        live = self._live_of(version.name, alias)
        before = ModelVersion(version.name, live.live) if live is not None else None
        if before == version:
            return Switch(version, alias, live.previous if live is not None else None, changed=False)
        runner = self._directory.runner(version.name)
        old, new = await runner.describe(before or version), await runner.describe(version)
        differences = incompatibilities(old.inputs, new.inputs)
        if differences and not force:
            raise Conflict(f"version {version.version} takes other inputs", {"differences": differences})
        return self._move(version, alias, live, PROMOTED)

    async def rollback(self, name: str, *, alias: str | None = None) -> Switch:
        self._refuse_read_only()
        await self._directory.resolve(ModelRef(name))
        alias = alias or DEFAULT_ALIAS
        live = self._live_of(name, alias)
        if live is None:
            raise ModelNotFound(f"model '{name}' has no alias '{alias}'")
        if live.back:
            return Switch(ModelVersion(name, live.live), alias, live.previous, changed=False)
        if live.previous is None:
            raise Conflict(f"nothing is known of a version that '{name}@{alias}' answered before {live.live}")
        return self._move(ModelVersion(name, live.previous), alias, live, ROLLED_BACK, back=True)

    async def set_traffic(self, name: str, plan: TrafficPlan) -> ModelStatus:
        self._refuse_read_only()
        await self._directory.resolve(ModelRef(name))
        for alias in sorted(plan.aliases - self._directory.aliases.get(name, {}).keys()):
            raise ModelNotFound(f"model '{name}' has no alias '{alias}'")
        self.plans[name] = plan
        return self._status(name)

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise RegistryReadOnly("the model registry is not written to from here")

    def _live_of(self, name: str, alias: str) -> AliasState | None:
        version = self._directory.aliases.get(name, {}).get(alias)
        return self._live.get((name, alias), AliasState(version, version)) if version is not None else None

    def _move(
        self, version: ModelVersion, alias: str, live: AliasState | None, why: str, *, back: bool = False
    ) -> Switch:
        before = live.live if live is not None else None
        self._directory.aliases.setdefault(version.name, {})[alias] = version.version
        self._live[version.name, alias] = AliasState(version.version, version.version, before, why=why, back=back)
        return Switch(version, alias, before, changed=True)

    async def status(self) -> Sequence[ModelStatus]:
        return [self._status(name) for name in self._directory.names()]

    async def model(self, name: str) -> ModelStatus:
        await self._directory.resolve(ModelRef(name))
        return self._status(name)

    async def statistics(self, version: ModelVersion) -> Statistics:
        return self.counted_of.get(version, self.counted)

    async def health(self) -> Mapping[str, Any]:
        return self.parts

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        return self.replicas

    def _status(self, name: str) -> ModelStatus:
        default = self._directory.known(ModelRef(name))
        aliases = self._directory.aliases.get(name, {})
        return ModelStatus(
            name=name,
            default=default.version if default is not None else None,
            aliases=aliases,
            desired=self.desired.get(name, aliases),
            live={alias: live.shown() for alias in aliases if (live := self._live_of(name, alias)) is not None},
            blocked=self.blocked.get(name, {}),
            problems=self.problems.get(name, []),
            pool="default",
            versions={v.version: self._states.get(v, _facts("cold")) for v in self._directory.versions(name)},
            traffic=dict(self.plans[name].weights) if name in self.plans else {},
            shadow=self.plans[name].shadow if name in self.plans else None,
        )


def _facts(
    state: str, *, replicas: int = 0, nbytes: int = 0, load_ms: float = 0.0, error: str | None = None
) -> dict[str, Any]:
    facts = {"state": state, "replicas": replicas, "bytes": nbytes, "load_ms": load_ms, "error": error}
    return {**facts, "batching": BatchingContract(True, "proven") if state == "ready" else None}


class FakeFeatureStore:
    """A `FeatureStore`: ``{view: {entity: {feature: value}}}``. Every view has the join key `join_key`.

    `services` maps feature services to views. `reads` keeps the entities of each call. Calls raise `error`, if set.
    """

    def __init__(
        self,
        views: Mapping[str, Mapping[Any, Mapping[str, Any]]],
        *,
        services: Mapping[str, str] | None = None,
        join_key: str = "id",
    ) -> None:
        self._views = views
        self._services = services or {}
        self._join_key = join_key
        self.reads: list[list[Any]] = []
        self.error: ServingError | None = None

    async def source(self, query: FeatureQuery) -> FeatureSource:
        return FeatureSource((self._join_key,), tuple(self._features(self._table(query))))

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier] = ()
    ) -> FeatureRows:
        table = self._table(query)
        ids = [entity[self._join_key] for entity in entities]
        self.reads.append(ids)
        values = {name: [table.get(id, {}).get(name) for id in ids] for name in self._features(table)}
        return FeatureRows(values, [id in table for id in ids])

    def _table(self, query: FeatureQuery) -> Mapping[Any, Mapping[str, Any]]:
        if self.error is not None:
            raise self.error
        view = query.view or self._services.get(str(query.service), "")
        if view not in self._views:
            raise FeatureSourceNotFound(f"there is no {query}")
        return self._views[view]

    @staticmethod
    def _features(table: Mapping[Any, Mapping[str, Any]]) -> list[str]:
        return list(next(iter(table.values()), {}))


@dataclass
class FakeRecorder:
    """A `Recorder` that keeps its calls, without the times."""

    predictions: list[tuple[ModelVersion, int]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[ModelVersion, int, int]] = field(default_factory=list)
    blamed: list[tuple[ModelVersion | None, str]] = field(default_factory=list)
    """Failures, by version."""
    repetitions: list[tuple[ModelVersion, int]] = field(default_factory=list)
    streams: list[tuple[ModelVersion, int | None]] = field(default_factory=list)
    """Streams that started, without a number, and that ended, with the number of their events."""
    divisions: list[tuple[ModelVersion, float | None]] = field(default_factory=list)
    divided_failures: list[tuple[ModelVersion, str]] = field(default_factory=list)
    shadows: list[tuple[ShadowPair, ShadowResult]] = field(default_factory=list)
    drops: list[tuple[ShadowPair, str]] = field(default_factory=list)

    def predicted(self, version: ModelVersion, rows: int, seconds: float) -> None:
        self.predictions.append((version, rows))

    def failed(self, name: str, version: ModelVersion | None, code: str) -> None:
        self.failures.append((name, code))
        self.blamed.append((version, code))

    def called(self, version: ModelVersion, batch: AnsweredBatch) -> None:
        self.calls.append((version, batch.parts, batch.rows))

    def repeated(self, version: ModelVersion, requests: int) -> None:
        self.repetitions.append((version, requests))

    def stream_started(self, version: ModelVersion) -> None:
        self.streams.append((version, None))

    def stream_ended(self, version: ModelVersion, events: int) -> None:
        self.streams.append((version, events))

    def divided(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        self.divisions.append((version, prediction))

    def divided_failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        self.divided_failures.append((version, code))

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        self.shadows.append((pair, result))

    def shadow_dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        self.drops.append((pair, cause))


LIMITS = Limits(
    rows=1000,
    columns=100,
    queued_requests=128,
    queued_requests_per_model=64,
    queued_rows=10_000,
    queued_bytes=10_000_000,
)
BATCH = BatchSettings(max_rows=100, max_bytes=1_000_000, max_in_flight=1)
SHADOW = ShadowSettings(max_requests=4, max_rows=1000, max_bytes=1_000_000, timeout_s=10.0)
HTTP_LIMITS = HttpLimits(body_bytes=1_000_000, json_depth=16, timeout_s=10.0)


@dataclass
class Fakes:
    """A complete gateway replica over fakes."""

    runner: FakeRunner
    directory: FakeDirectory
    manager: FakeManager
    recorder: FakeRecorder
    features: FakeFeatureStore | None
    service: PredictionService
    http_limits: HttpLimits = HTTP_LIMITS
    default_model: ModelRef | None = None
    access: Access = EVERYBODY
    observer: Observer | None = None

    @cached_property
    def app(self) -> HotRoutes:
        """The ASGI application."""
        return create_app(
            self.service,
            self.manager,
            self.http_limits,
            default_model=self.default_model,
            access=self.access,
            observer=self.observer,
        )


def make_fakes(
    models: Mapping[str, FakeModel],
    *,
    aliases: Mapping[str, Mapping[str, str]] | None = None,
    features: FakeFeatureStore | None = None,
    limits: Limits = LIMITS,
    batch: BatchSettings = BATCH,
    shadow: ShadowSettings = SHADOW,
    http_limits: HttpLimits = HTTP_LIMITS,
) -> Fakes:
    """Build a gateway replica that serves `models`, by reference; `aliases` maps alias to version for each model."""
    versions = {_version(text): model for text, model in models.items()}
    runner = FakeRunner(versions)
    directory = FakeDirectory(versions, aliases or {}, runner)
    recorder = FakeRecorder()
    service = PredictionService(directory, features, recorder, limits=limits, batch=batch, shadow=shadow)
    return Fakes(runner, directory, FakeManager(directory), recorder, features, service, http_limits)


def make_service(
    models: Mapping[str, FakeModel], features: FakeFeatureStore | None = None, limits: Limits = LIMITS
) -> PredictionService:
    """Build only the prediction service of `make_fakes`."""
    return make_fakes(models, features=features, limits=limits).service


def _version(text: str) -> ModelVersion:
    ref = parse_ref(text)
    return ModelVersion(ref.name, ref.version or "1")
