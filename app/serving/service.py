"""The one use case behind every dialect: a reference and a payload in, a prediction out.

Dialects in `app.api` parse their bodies into a `PredictionRequest` and encode the `Prediction`. There is no HTTP here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from app.errors import DeadlineExceeded, InvalidInput, ServingError, TooLarge
from app.serving.admission import Admission, AdmissionLimits
from app.serving.batch_limits import BatchLimits
from app.serving.batching import Batcher
from app.serving.enrichment import Enrichment, FeatureRequest
from app.serving.model_ref import ModelRef, ModelVersion
from app.serving.pool_load import Backlog
from app.serving.ports import Directory, FeatureQuery, FeatureSource, FeatureStore, ModelSpec, Recorder
from app.serving.signature import Signature
from app.serving.single_flight import SingleFlight
from app.serving.splitting import Piece, SplitRequest, pieces
from app.serving.tables import Output, Rows, join, stack


class Payload(NamedTuple):
    """Rows as a caller wrote them.

    ``records``: a list of objects, one per row. ``columns``: an object of lists. ``instances`` and ``inputs``: as
    TensorFlow Serving's REST format defines them, row-wise and column-wise. ``tensors``: an array per name.
    """

    form: Literal["records", "columns", "instances", "inputs", "tensors"]
    value: Any


PayloadReader = Callable[[Signature], Awaitable[Payload]]
"""Reads rows whose meaning depends on what the model takes, as that of text in a CSV does."""


@dataclass(slots=True)
class PredictionRequest:
    """What a caller wants. Either `payload` or `features` is set; `deadline` is event loop time.

    `lenient`: a model that takes no parameters is given none of `params`, where the protocol lets callers send others.
    """

    ref: ModelRef
    deadline: float
    payload: Payload | PayloadReader | None = None
    features: FeatureRequest | None = None
    params: Mapping[str, Any] | None = None
    lenient: bool = False


@dataclass(slots=True)
class Prediction:
    """The answer, the version that gave it, and that version's signature.

    Where the feature store was read, `features` holds the columns that the model was given, overrides included.
    """

    version: ModelVersion
    output: Output
    signature: Signature
    features: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds that the service keeps: on one request, on what is in progress, and on a batch."""

    rows: int
    columns: int
    admission: AdmissionLimits
    batch: BatchLimits


class ServedModel:
    """A version as a gateway replica knows it: its spec, its compiled signature, its batcher."""

    def __init__(self, spec: ModelSpec, batcher: Batcher[Rows, Output]) -> None:
        self.spec = spec
        self.signature = Signature.compile(spec.inputs, spec.outputs, spec.params)
        self.batcher = batcher
        # A signature tells that a model answers row by row. Without one, or with a fixed number of rows, a request may
        # mean something only as a whole.
        signature = self.signature
        self._by_row = signature.fixed_rows is None and (bool(signature.columns) or signature.tensor is not None)

    def rows(self, payload: Payload, params: Mapping[str, Any] | None) -> Rows:
        """Validate the payload. Raises `InvalidInput`."""
        signature = self.signature
        if payload.form == "records":
            return signature.rows_from_records(payload.value, params)
        if payload.form == "columns":
            return signature.rows_from_columns(payload.value, params)
        if payload.form == "instances":
            return signature.rows_from_instances(payload.value, params)
        if payload.form == "tensors":
            return signature.rows_from_tensors(payload.value, params)
        return signature.rows_from_inputs(payload.value, params)

    def cuts(self, rows: Rows, nbytes: int) -> Iterator[Piece[Rows]] | None:
        """The pieces to send it in; None where it goes whole, as it does when it fits a batch.

        It also does where each request is a batch of its own: such a model may look at the rows together.
        """
        batcher = self.batcher
        if rows.count <= batcher.max_rows and nbytes <= batcher.max_bytes:
            return None
        if not self._by_row or rows.count == 1 or batcher.max_rows == 1:
            return None
        return pieces(rows, nbytes, max_rows=batcher.max_rows, max_bytes=batcher.max_bytes)


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
        try:
            self.admission.enter()
            try:
                prediction = await self._predict(request)
            finally:
                self.admission.leave()
        except ServingError as error:
            self._recorder.failed(request.ref.name, error.code)
            raise
        except Exception:
            self._recorder.failed(request.ref.name, ServingError.code)
            raise
        self._recorder.predicted(prediction.version, prediction.output.count, time.perf_counter() - started)
        return prediction

    async def model(self, ref: ModelRef) -> ServedModel:
        """The version behind a reference, loaded. Raises `ModelNotFound` or `Unavailable`."""
        version = self._directory.known(ref) or await self._directory.resolve(ref)
        return self._models.get(version) or await self._open(version)

    def forget(self, name: str) -> None:
        """Drop what is known of a model's versions: its name means another model now. Requests under way go on."""
        for version in [version for version in self._models if version.name == name]:
            del self._models[version]

    async def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that a reference means. Raises `ModelNotFound` or `RegistryUnavailable`."""
        return self._directory.known(ref) or await self._directory.resolve(ref)

    async def feature_source(self, query: FeatureQuery) -> FeatureSource:
        """What a feature view or service needs and gives.

        Raises:
            FeatureStoreUnavailable, FeatureSourceNotFound.
        """
        return await self._enrichment.source(query)

    async def _predict(self, request: PredictionRequest) -> Prediction:
        version = self._directory.known(request.ref)
        model = self._models.get(version) if version is not None else None
        payload, features = request.payload, None
        if model is None or type(payload) is not Payload:  # something has to be waited for before the rows are known
            try:
                async with asyncio.timeout_at(request.deadline):
                    model = model or await self.model(request.ref)
                    payload, features = await self._read(request, model)
            except TimeoutError:
                raise _late() from None
        params = request.params if model.signature.param_names or not request.lenient else None
        rows = model.rows(payload, params)
        count = rows.count
        self._check_rows(count)
        if len(rows.columns) > self._limits.columns:
            raise TooLarge(f"{len(rows.columns)} columns in one row; at most {self._limits.columns} are allowed")
        output = await self._batched(model, rows, request.deadline)
        return Prediction(model.spec.key, output, model.signature, features)

    async def _read(
        self, request: PredictionRequest, model: ServedModel
    ) -> tuple[Payload, Mapping[str, Sequence[Any]] | None]:
        """The rows as they are written, and the features among them where the feature store is read."""
        if request.features is not None:
            self._check_rows(request.features.count)
            enriched = await self._enrichment.read(request.features, model.signature, request.deadline)
            return Payload("columns", enriched), enriched
        if request.payload is None:
            raise InvalidInput("the request has no rows")
        if isinstance(request.payload, Payload):
            return request.payload, None
        return await request.payload(model.signature), None

    async def _batched(self, model: ServedModel, rows: Rows, deadline: float) -> Output:
        version, count, nbytes = model.spec.key, rows.count, rows.nbytes
        # A signature that fixes the number of rows describes a whole call: its requests are never stacked.
        group = rows.layout if model.signature.fixed_rows is None else object()
        self.admission.admit(version, count, nbytes)
        try:
            cuts = model.cuts(rows, nbytes)
            answer: asyncio.Future[Any] = (
                model.batcher.submit(rows, group=group, rows=count, nbytes=nbytes, deadline=deadline)
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
        finally:
            self.admission.release(version, count, nbytes)

    def _check_rows(self, count: int) -> None:
        if count > self._limits.rows:
            raise TooLarge(f"{count} rows in one request; at most {self._limits.rows} are allowed")

    async def _open(self, version: ModelVersion) -> ServedModel:
        return await self._opening.do(version, partial(self._describe, version))

    async def _describe(self, version: ModelVersion) -> ServedModel:
        spec = await self._directory.runner(version.name).describe(version)

        async def call(parts: Sequence[Rows]) -> list[Output]:
            return await self._call(version, batcher, parts)

        batcher = Batcher(call, partial(self._batch_limits, version.name), partial(self._recorder.called, version))
        model = self._models[version] = ServedModel(spec, batcher)
        return model

    def _batch_limits(self, name: str) -> BatchLimits:
        return self._directory.batch_overrides(name).over(self._limits.batch)

    async def _call(self, version: ModelVersion, batcher: Batcher[Rows, Output], parts: Sequence[Rows]) -> list[Output]:
        now = asyncio.get_running_loop().time()
        backlog = Backlog(batcher.waiting_rows, batcher.oldest_wait_s(now)) if batcher.waiting_rows else Backlog()
        output = await self._directory.runner(version.name).predict(version, stack(parts), backlog)
        return output.split([part.count for part in parts])


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request was not answered before its deadline")


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_late())
