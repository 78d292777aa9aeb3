"""The use case behind every dialect: a reference and a payload in, a prediction out.

Dialects in `app.api` parse their bodies into a `PredictionRequest` and encode the `Prediction`. There is no HTTP here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from functools import partial

from app.errors import InvalidInput, InvalidRequest, ServingError, TooLarge
from app.serving.comparison.prediction_diff import mean_prediction
from app.serving.comparison.statistics import ShadowPair
from app.serving.ports import Directory, FeatureStore, Recorder
from app.serving.prediction.admission import Admission
from app.serving.prediction.deadlines import until
from app.serving.prediction.enrichment import Enriched, Enrichment
from app.serving.prediction.event_stream import EventStream
from app.serving.prediction.phases import phase
from app.serving.prediction.requests import Payload, Prediction, PredictionRequest
from app.serving.prediction.served_model import ServedModel
from app.serving.prediction.shadow import Shadowing, ShadowRequest
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.traffic import Traffic
from app.serving.rows import Layout, Output, Rows
from app.serving.single_flight import SingleFlight
from app.settings import BatchSettings, Limits, ShadowSettings

log = logging.getLogger(__name__)

_MOST_VERSIONS = 4096
"""Versions that a replica remembers. Each rollout adds one; the oldest is described again when it is called."""
_NO_ROWS = Rows(Layout("columns", (), (), ()), (), 1)
_NO_OUTPUT = Output("tensor", (), (), 1)


class PredictionService:
    """Resolves references, validates rows and predicts them. One instance per gateway replica, on its event loop."""

    def __init__(
        self,
        directory: Directory,
        features: FeatureStore | None,
        recorder: Recorder,
        *,
        limits: Limits,
        batch: BatchSettings,
        shadow: ShadowSettings,
        stream_idle_s: float = 300.0,
    ) -> None:
        self._directory = directory
        self._recorder = recorder
        self.limits = limits
        self._batch = batch
        self._stream_idle_s = stream_idle_s
        self.admission = Admission(limits)
        self.enrichment = Enrichment(features, max_entities=batch.max_rows)
        self._models: dict[ModelVersion, ServedModel] = {}
        self._shadowing = Shadowing(shadow, recorder)
        self._opening: SingleFlight[ModelVersion, ServedModel] = SingleFlight()

    async def predict(self, request: PredictionRequest) -> Prediction:
        """Answer one request.

        Raises:
            ServingError: every class of `app.errors` except `StartupError`.
        """
        started = time.perf_counter()
        version: ModelVersion | None = None
        traffic: Traffic | None = None
        observation = request.observation
        if observation is not None:
            observation.entered(request.ref)
        try:
            self.admission.enter(request.caller)
            try:
                version, traffic = self._choose(request)
                if version is None:
                    async with until(request.deadline):
                        version = await self._directory.resolve(request.ref)
                if observation is not None:
                    observation.resolved(version)
                prediction = await self._predict(request, version)
            finally:
                self.admission.leave(request.caller)
        except Exception as error:
            self._failed(request.ref.name, version, traffic, error)
            raise
        seconds = time.perf_counter() - started
        self._recorder.predicted(version, prediction.output.count, seconds)
        if observation is not None:
            observation.answered(prediction.rows.count)
        if traffic is not None:
            self._follow_up(request, traffic, prediction, seconds)
        return prediction

    async def stream(self, request: PredictionRequest) -> EventStream:
        """Answer the JSON body of one request event by event. Returns when the first event is there.

        The deadline and the limits of admission apply until then.

        Raises:
            InvalidRequest: the model cannot stream.
            ServingError: as `predict`.
        """
        started = time.perf_counter()
        version: ModelVersion | None = None
        traffic: Traffic | None = None
        if (observation := request.observation) is not None:
            observation.entered(request.ref)
        try:
            self.admission.enter(request.caller)
            try:
                version, traffic = self._choose(request)
                async with until(request.deadline):
                    version = version or await self._directory.resolve(request.ref)
                    if observation is not None:
                        observation.resolved(version)
                    events, first = await self._first_event(request, version)
            finally:
                self.admission.leave(request.caller)
        except Exception as error:
            self._failed(request.ref.name, version, traffic, error)
            raise
        ended = partial(self._stream_ended, version, traffic, time.perf_counter() - started)
        self._recorder.stream_started(version)
        if observation is not None:
            observation.answered(1)
        return EventStream(version, events, first, self._stream_idle_s, ended)

    async def model(self, ref: ModelRef) -> ServedModel:
        """Return the version behind a reference, loaded. Raises `ModelNotFound` or `Unavailable`."""
        return await self._open(await self.resolve(ref))

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """Return the version behind a reference. Raises `ModelNotFound` or `RegistryUnavailable`."""
        return self._directory.known(ref) or await self._directory.resolve(ref)

    def forget(self, name: str) -> None:
        """Drop a model's versions, because its name means another model now. Requests in progress finish."""
        for version in [version for version in self._models if version.name == name]:
            del self._models[version]

    async def _predict(self, request: PredictionRequest, version: ModelVersion) -> Prediction:
        model = self._models.get(version)
        if model is None:
            async with until(request.deadline):
                model = await self._open(version)
        payload, enriched = request.payload, None
        if model.takes_json or (payload is None and request.body is not None):
            return await self._invoke(request, model)
        request.body = None  # as large as the rows, and not counted: neither the batch nor the shadow needs it
        if type(payload) is not Payload:  # reading the rows has to wait for something
            payload, enriched = await self._read(request, model, request.deadline)
        rows = self._rows(request, model, payload)
        count, nbytes = rows.count, rows.nbytes
        self.admission.admit(version, count, nbytes, request.caller)
        try:
            output = await model.predict(rows, nbytes, request.deadline, request.observation)
        finally:
            self.admission.release(version, count, nbytes, request.caller)
        features = payload.value if enriched is not None else None
        return Prediction(version, output, model.signature, rows, features, enriched)

    def _choose(self, request: PredictionRequest) -> tuple[ModelVersion | None, Traffic | None]:
        """Return the version as far as it is known from memory, and the traffic that it is chosen by."""
        ref = request.ref
        traffic = self._directory.traffic(ref.name) if ref.version is None and ref.alias is None else None
        if traffic is not None and traffic.variants:
            return ModelVersion(ref.name, traffic.choose(ref.name, request.sticky_key)), traffic
        return self._directory.known(ref), traffic

    def _failed(self, name: str, version: ModelVersion | None, traffic: Traffic | None, error: Exception) -> None:
        code = error.code if isinstance(error, ServingError) else ServingError.code
        self._recorder.failed(name, version, code)
        if traffic is not None and version is not None:
            self._recorder.divided_failed(version, traffic, code)

    async def _invoke(self, request: PredictionRequest, model: ServedModel) -> Prediction:
        """Predict the JSON body of a request whole and alone."""
        version, body = model.spec.key, request.json_for(model.spec)
        self.admission.admit(version, 1, len(body), request.caller)
        try:
            async with until(request.deadline):
                with phase(request.observation, "call") as traces:
                    text = await self._directory.runner(version.name).invoke(version, body, traces)
        finally:
            self.admission.release(version, 1, len(body), request.caller)
        return Prediction(version, _NO_OUTPUT, model.signature, _NO_ROWS, text=text)

    async def _first_event(
        self, request: PredictionRequest, version: ModelVersion
    ) -> tuple[AsyncGenerator[str], str | None]:
        """Begin a stream. Returns the further events and the first one, None if there is none."""
        model = await self._open(version)
        if not model.spec.streams:
            raise InvalidRequest(
                f"{version} cannot stream, because its model has no 'predict_stream'; leave out 'stream'",
                {"field": "stream"},
            )
        body = request.json_for(model.spec)
        self.admission.admit(version, 1, len(body), request.caller)
        try:
            with phase(request.observation, "call") as traces:
                events = self._directory.runner(version.name).stream(version, body, traces)
                try:
                    return events, await anext(events, None)
                except BaseException:
                    await events.aclose()
                    raise
        finally:
            self.admission.release(version, 1, len(body), request.caller)

    def _stream_ended(
        self, version: ModelVersion, traffic: Traffic | None, seconds: float, events: int, error: Exception | None
    ) -> None:
        """Count a stream; `seconds` is the time to its first event."""
        self._recorder.stream_ended(version, events)
        if error is not None:
            self._failed(version.name, version, traffic, error)
            return
        self._recorder.predicted(version, 1, seconds)
        if traffic is not None:
            self._recorder.divided(version, traffic, seconds, None)

    async def _read(
        self, request: PredictionRequest, model: ServedModel, deadline: float
    ) -> tuple[Payload, Enriched | None]:
        """Return the payload, and what was read from the feature store."""
        if request.features is not None:
            self._check_rows(request.features.count)
            enriched = await self.enrichment.read(request.features, deadline, request.observation)
            return Payload("columns", enriched.columns(model.signature)), enriched
        if request.payload is None:
            raise InvalidInput("the request has no rows")
        if isinstance(request.payload, Payload):
            return request.payload, None
        async with until(deadline):
            return await request.payload(model.signature), None

    def _rows(self, request: PredictionRequest, model: ServedModel, payload: Payload) -> Rows:
        """Validate rows by the model's signature and by the limits. Raises `InvalidInput` or `TooLarge`."""
        self._check_rows(payload.claimed_rows)
        params = request.params if model.signature.param_names or not request.lenient else None
        rows = model.signature.rows(payload.form, payload.value, params)
        rows = rows if payload.labels is None else rows.labeled(payload.labels)
        self._check_rows(rows.count)
        if len(rows.columns) > self.limits.columns:
            raise TooLarge(f"{len(rows.columns)} columns in one row; at most {self.limits.columns} are allowed")
        return rows

    def _follow_up(self, request: PredictionRequest, traffic: Traffic, prediction: Prediction, seconds: float) -> None:
        """Count an answer for the comparison of variants and send its shadow request. Never raises."""
        version, output = prediction.version, prediction.output
        try:
            self._recorder.divided(version, traffic, seconds, mean_prediction(output))
            shadow = traffic.shadow
            if shadow is None or shadow.version == version.version or prediction.text is not None:
                return
            enriched = prediction.enriched
            if enriched is not None:
                seconds -= enriched.seconds
            pair = ShadowPair(version.name, version.version, shadow.version)
            predict = partial(self._shadow, ModelVersion(version.name, shadow.version), request, prediction)
            nbytes = prediction.rows.nbytes + output.nbytes
            self._shadowing.send(ShadowRequest(pair, traffic, predict, output, seconds, nbytes))
        except Exception:
            log.exception("comparison failed, the caller was answered: model=%s", version)

    async def _shadow(
        self, version: ModelVersion, request: PredictionRequest, base: Prediction, deadline: float
    ) -> Output:
        """Answer a request by the shadow version, with the features that were read for the caller."""
        model = await self._open(version)
        if model.signature.reads_as(base.signature):
            rows = base.rows
        else:
            if base.enriched is not None:
                payload = Payload("columns", base.enriched.columns(model.signature))
            else:
                payload, _ = await self._read(request, model, deadline)
            rows = self._rows(request, model, payload)
        return await model.predict(rows, rows.nbytes, deadline, shadow=True)

    def _check_rows(self, count: int) -> None:
        if count > self.limits.rows:
            raise TooLarge(f"{count} rows in one request; at most {self.limits.rows} are allowed")

    async def _open(self, version: ModelVersion) -> ServedModel:
        return self._models.get(version) or await self._opening.do(version, partial(self._describe, version))

    async def _describe(self, version: ModelVersion) -> ServedModel:
        spec = await self._directory.runner(version.name).describe(version)
        if len(self._models) >= _MOST_VERSIONS:
            del self._models[next(iter(self._models))]
        answered, repeated = partial(self._recorder.called, version), partial(self._recorder.repeated, version)
        model = self._models[version] = ServedModel(spec, self._directory, self._batch, answered, repeated)
        return model
