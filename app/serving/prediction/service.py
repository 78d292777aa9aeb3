"""The one use case behind every dialect: a reference and a payload in, a prediction out.

Dialects in `app.api` parse their bodies into a `PredictionRequest` and encode the `Prediction`. There is no HTTP here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.errors import DeadlineExceeded, InvalidInput, InvalidRequest, ModelFailed, ServingError, TooLarge
from app.serving.batching.batcher import Batcher
from app.serving.batching.chunking import SplitRequest
from app.serving.batching.limits import BatchLimits
from app.serving.comparison.prediction_diff import mean_prediction
from app.serving.comparison.statistics import ShadowPair
from app.serving.features import FeatureQuery, FeatureSource
from app.serving.placement.load import Backlog
from app.serving.ports import Directory, FeatureStore, Recorder
from app.serving.prediction.admission import Admission, AdmissionLimits
from app.serving.prediction.enrichment import Enriched, Enrichment
from app.serving.prediction.requests import Payload, Prediction, PredictionRequest
from app.serving.prediction.served_model import ServedModel
from app.serving.prediction.shadow import Original, Shadowing, ShadowLimits
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.traffic import Traffic
from app.serving.rows import Output, Rows, join, stack
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)

_MOST_VERSIONS = 4096
"""Versions that a replica remembers. Each switch adds one, and the oldest one is described anew when it is called."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds that the service keeps: on one request, on what is in progress, on a batch, and on copies."""

    rows: int
    columns: int
    admission: AdmissionLimits
    batch: BatchLimits
    shadow: ShadowLimits


class PredictionService:
    """Resolves, validates, batches, and hands back. One instance per gateway replica, on its event loop."""

    def __init__(
        self, directory: Directory, features: FeatureStore | None, recorder: Recorder, limits: ServiceLimits
    ) -> None:
        self._directory = directory
        self._recorder = recorder
        self._limits = limits
        self.admission = Admission(limits.admission)
        self._enrichment = Enrichment(features, max_entities=limits.batch.max_rows)
        self._models: dict[ModelVersion, ServedModel] = {}
        self._shadows: dict[ModelVersion, ServedModel] = {}
        self._shadowing = Shadowing(limits.shadow, recorder)
        self._opening: SingleFlight[ModelVersion, ServedModel] = SingleFlight()

    @property
    def most_columns(self) -> int:
        """Most columns that one row may have."""
        return self._limits.columns

    async def predict(self, request: PredictionRequest) -> Prediction:
        """Answer one request.

        Raises:
            ServingError: of every class of `app.errors` but `StartupError`.
        """
        started = time.perf_counter()
        ref = request.ref
        version: ModelVersion | None = None
        traffic: Traffic | None = None
        try:
            self.admission.enter()
            try:
                if ref.version is None and ref.alias is None:
                    traffic = self._directory.traffic(ref.name)
                if traffic is not None and traffic.variants:
                    version = ModelVersion(ref.name, traffic.choose(ref.name, _stays_by(request)))
                else:
                    version = self._directory.known(ref)
                    if version is None:
                        version = await self._resolved(request)
                prediction = await self._predict(request, version)
            finally:
                self.admission.leave()
        except Exception as error:
            code = error.code if isinstance(error, ServingError) else ServingError.code
            self._recorder.failed(ref.name, version, code)
            if traffic is not None and version is not None:
                self._recorder.divided_failed(version, traffic, code)
            raise
        seconds = time.perf_counter() - started
        self._recorder.predicted(version, prediction.output.count, seconds)
        if traffic is not None:
            self._follow_up(request, traffic, prediction, seconds)
        return prediction

    async def model(self, ref: ModelRef) -> ServedModel:
        """The version behind a reference, loaded. Raises `ModelNotFound` or `Unavailable`."""
        version = self._directory.known(ref) or await self._directory.resolve(ref)
        return self._models.get(version) or await self._open(version)

    def forget(self, name: str) -> None:
        """Drop what is known of a model's versions: its name means another model now. Requests under way go on."""
        for known in (self._models, self._shadows):
            for version in [version for version in known if version.name == name]:
                del known[version]

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that a reference means. Raises `ModelNotFound` or `RegistryUnavailable`."""
        return self._directory.known(ref) or await self._directory.resolve(ref)

    async def feature_source(self, query: FeatureQuery) -> FeatureSource:
        """What a feature view or service needs and gives.

        Raises:
            FeatureStoreUnavailable, FeatureSourceNotFound.
        """
        return await self._enrichment.source(query)

    async def _resolved(self, request: PredictionRequest) -> ModelVersion:
        try:
            async with asyncio.timeout_at(request.deadline):
                return await self._directory.resolve(request.ref)
        except TimeoutError:
            raise _late() from None

    async def _predict(self, request: PredictionRequest, version: ModelVersion) -> Prediction:
        model = self._models.get(version)
        payload, enriched = request.payload, None
        if model is None or type(payload) is not Payload:  # something has to be waited for before the rows are known
            try:
                async with asyncio.timeout_at(request.deadline):
                    model = model or await self._open(version)
                    payload, enriched = await self._read(request, model)
            except TimeoutError:
                raise _late() from None
        rows = self._rows(request, model, payload)
        count, nbytes = rows.count, rows.nbytes
        self.admission.admit(version, count, nbytes)
        try:
            output = await self._submitted(model, rows, nbytes, request.deadline)
        finally:
            self.admission.release(version, count, nbytes)
        features = payload.value if enriched is not None else None
        return Prediction(version, output, model.signature, rows, features, enriched)

    async def _read(self, request: PredictionRequest, model: ServedModel) -> tuple[Payload, Enriched | None]:
        """The rows as they are written, and what was read where the feature store is."""
        if request.features is not None:
            self._check_rows(request.features.count)
            enriched = await self._enrichment.read(request.features, request.deadline)
            return Payload("columns", enriched.columns(model.signature)), enriched
        if request.payload is None:
            raise InvalidInput("the request has no rows")
        if isinstance(request.payload, Payload):
            return request.payload, None
        return await request.payload(model.signature), None

    def _rows(self, request: PredictionRequest, model: ServedModel, payload: Payload) -> Rows:
        """The rows, checked by the model's signature and by the limits. Raises `InvalidInput` or `TooLarge`."""
        params = request.params if model.signature.param_names or not request.lenient else None
        rows = model.rows(payload, params)
        self._check_rows(rows.count)
        if len(rows.columns) > self._limits.columns:
            raise TooLarge(f"{len(rows.columns)} columns in one row; at most {self._limits.columns} are allowed")
        return rows

    async def _submitted(self, model: ServedModel, rows: Rows, nbytes: int, deadline: float) -> Output:
        # A signature that fixes the number of rows describes a whole call: its requests are never stacked.
        group = rows.layout if model.signature.fixed_rows is None else object()
        cuts = model.cuts(rows, nbytes)
        answer: asyncio.Future[Any] = (
            model.batcher.submit(rows, group=group, rows=rows.count, nbytes=nbytes, deadline=deadline)
            if cuts is None
            else SplitRequest(model.batcher, cuts, group=group, deadline=deadline)
        )
        # asyncio.timeout would cost three times as much.
        timer = asyncio.get_running_loop().call_at(deadline, _expire, answer)
        try:
            result = await answer
        finally:
            timer.cancel()
        output: Output = result if cuts is None else join(result)
        return output

    def _follow_up(self, request: PredictionRequest, traffic: Traffic, prediction: Prediction, seconds: float) -> None:
        """Count an answer for the comparison of variants, and copy its request. Never raises: it is answered."""
        version, output = prediction.version, prediction.output
        try:
            self._recorder.divided(version, traffic, seconds, mean_prediction(output))
            shadow = traffic.shadow
            if shadow is None or shadow.version == version.version:
                return
            enriched = prediction.enriched
            if enriched is not None:
                seconds -= enriched.seconds
            self._shadowing.send(
                ShadowPair(version.name, version.version, shadow.version),
                traffic,
                partial(self._copied, ModelVersion(version.name, shadow.version), request, prediction),
                Original(output, seconds, prediction.rows.nbytes + output.nbytes),
            )
        except Exception:
            log.exception("an answer of %s is not compared", version)

    async def _copied(
        self, version: ModelVersion, request: PredictionRequest, base: Prediction, deadline: float
    ) -> Output:
        """A shadow's answer to a request, with the features that were read for the caller."""
        model = self._shadows.get(version) or await self._open_shadow(version)
        if model.signature.reads_as(base.signature):
            rows = base.rows
        else:
            if base.enriched is not None:
                payload = Payload("columns", base.enriched.columns(model.signature))
            else:
                payload, _ = await self._read(request, model)
            rows = self._rows(request, model, payload)
        return await self._submitted(model, rows, rows.nbytes, deadline)

    def _check_rows(self, count: int) -> None:
        if count > self._limits.rows:
            raise TooLarge(f"{count} rows in one request; at most {self._limits.rows} are allowed")

    async def _open(self, version: ModelVersion) -> ServedModel:
        return await self._opening.do(version, partial(self._describe, version))

    async def _describe(self, version: ModelVersion) -> ServedModel:
        spec = await self._directory.runner(version.name).describe(version)

        async def call(parts: Sequence[Rows]) -> list[Output]:
            return await self._call(version, parts, again=True)

        batcher = Batcher(call, partial(self._batch_limits, version.name), partial(self._recorder.called, version))
        if len(self._models) >= _MOST_VERSIONS:
            oldest = next(iter(self._models))
            self._models.pop(oldest)
            self._shadows.pop(oldest, None)
        model = self._models[version] = ServedModel(spec, batcher)
        return model

    async def _open_shadow(self, version: ModelVersion) -> ServedModel:
        """The version with a batcher of its own: copies neither wait among callers' rows nor let these wait."""
        spec = (self._models.get(version) or await self._open(version)).spec

        async def call(parts: Sequence[Rows]) -> list[Output]:
            return await self._call(version, parts, again=False)

        limits = partial(self._batch_limits, version.name)
        # A batch that a replica died with is not sent again in parts: each of them might cost another one.
        batcher = Batcher(call, limits, of_one=(ModelFailed, InvalidRequest))
        return self._shadows.setdefault(version, ServedModel(spec, batcher))

    def _batch_limits(self, name: str) -> BatchLimits:
        return self._directory.batch_overrides(name).over(self._limits.batch)

    async def _call(self, version: ModelVersion, parts: Sequence[Rows], *, again: bool) -> list[Output]:
        runner = self._directory.runner(version.name)
        output = await runner.predict(version, stack(parts), self._backlog(version), again=again)
        return output.split([part.count for part in parts])

    def _backlog(self, version: ModelVersion) -> Backlog:
        """What waits here for a version, copies included."""
        backlog = Backlog()
        for known in (self._models, self._shadows):
            model = known.get(version)
            if model is not None and model.batcher.waiting_rows:
                wait_s = model.batcher.oldest_wait_s(asyncio.get_running_loop().time())
                backlog = Backlog(backlog.rows + model.batcher.waiting_rows, max(backlog.oldest_wait_s, wait_s))
        return backlog


def _stays_by(request: PredictionRequest) -> str | None:
    """What keeps a caller with one variant: its session, or else the first entity; None leaves it to chance."""
    session = request.session() if request.session is not None else None
    return session or (request.features.first if request.features is not None else None)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request was not answered before its deadline")


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_late())
