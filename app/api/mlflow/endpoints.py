"""The scoring protocol of ``mlflow models serve``, with a model reference in the path."""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from importlib.metadata import version

from app.api.http.answers import versioned_reply
from app.api.http.exchange import Exchange, Reply
from app.api.http.routing import JSON, Route
from app.api.mlflow.answers import mlflow_predictions
from app.api.mlflow.bodies import (
    JSON_CALL_KEYS,
    JSON_CALL_SCHEMA,
    InvocationsError,
    InvocationsRequest,
    InvocationsResponse,
    SplitFrame,
)
from app.api.mlflow.csv import csv_columns
from app.api.mlflow.events import EVENT_STREAM, event_stream_reply
from app.api.mlflow.tables import ParquetReader, TableLimits
from app.errors import InvalidInput, MalformedBody, NotFound, Unavailable, UnsupportedMediaType
from app.serving.callers import OPEN, PREDICT
from app.serving.ports import ModelManager
from app.serving.prediction.requests import Payload, PayloadReader, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, parse_ref
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import short

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

_TEXT = b"text/plain; charset=utf-8"
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class MlflowDialect:
    """Handlers of ``/invocations``, ``/models/{ref}/invocations``, ``/ping`` and ``/version``.

    `table_bytes` limits the bytes, and the values, of a decoded Parquet file, which `read_parquet` reads.
    `default_model` is the model of ``/invocations`` without a reference. Handlers raise `ServingError`.
    """

    def __init__(
        self,
        service: PredictionService,
        manager: ModelManager,
        table_bytes: int,
        read_parquet: ParquetReader,
        default_model: ModelRef | None,
    ) -> None:
        self._service = service
        self._manager = manager
        self._table_bytes = table_bytes
        self._read_parquet = read_parquet
        self._default_model = default_model

    def routes(self) -> list[Route]:
        route = partial(Route, tag="mlflow", error=InvocationsError, scopes=OPEN)
        bodies = {
            JSON: {"schema": {"anyOf": [InvocationsRequest, JSON_CALL_SCHEMA]}},
            CSV: {"schema": {"type": "string", "description": "A header row and rows, in UTF-8."}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        }
        whole = {"type": "object", "description": "The model's own answer to a body that it got whole."}
        answers = {
            JSON: {"schema": {"anyOf": [InvocationsResponse, whole]}},
            EVENT_STREAM: {"schema": {"type": "string", "description": "One `data:` line for each event."}},
        }
        hot = partial(route, body=bodies, answer=answers, hot=True, scopes=PREDICT)
        text = {"text/plain": {"schema": {"type": "string"}}}
        return [
            hot("POST", "/invocations", self.invoke_default, statuses=(404,)),
            hot("POST", "/invocations/{ref:path}", self.invoke),
            hot("POST", "/models/{ref:path}/invocations", self.invoke),
            route("GET", "/ping", self.ping, answer=text, statuses=(503,)),
            route("GET", "/version", self.version, answer=text),
        ]

    async def invoke_default(self, exchange: Exchange) -> Reply:
        """Predict with the default model."""
        if self._default_model is None:
            raise NotFound(
                "this gateway has no default model; POST to /invocations/{ref} with a model's name, or set "
                "'default_model' (ML_SERVE_DEFAULT_MODEL)"
            )
        return await self._predict(exchange, self._default_model)

    async def invoke(self, exchange: Exchange) -> Reply:
        """Predict with a model."""
        return await self._predict(exchange, parse_ref(exchange.path_params["ref"]))

    async def ping(self, exchange: Exchange) -> Reply:
        """Check that all models that should be served are loaded."""
        if not self._manager.ready:
            raise Unavailable("models are still being loaded; see /health")
        return Reply(b"\n", content_type=_TEXT)

    async def version(self, exchange: Exchange) -> Reply:
        """Return MLflow's version."""
        return Reply(version("mlflow").encode(), content_type=_TEXT)

    async def _predict(self, exchange: Exchange, ref: ModelRef) -> Reply:
        request = PredictionRequest(
            exchange.caller.allowed(ref),
            exchange.deadline,
            session=exchange.session,
            caller=exchange.caller.key,
            observation=exchange.observation,
        )
        kind = media_type(exchange.headers.get(b"content-type", b""))
        if kind == JSON:
            request.body = await exchange.body()
            given = exchange.parse(request.body, constants=True)
            if not isinstance(given, dict) or JSON_CALL_KEYS.isdisjoint(given):
                body = InvocationsRequest.read(given)
                request.payload = _payload(body)
                request.params = body.params
            if isinstance(given, dict) and given.get("stream") is True:
                return event_stream_reply(await self._service.stream(request), exchange.request_id)
        else:
            request.payload = self._table(kind, await exchange.body())
        prediction = await self._service.predict(request)
        if prediction.text is not None:
            return Reply(prediction.text, headers=((b"x-model-version", prediction.version.version.encode()),))
        return versioned_reply({"predictions": mlflow_predictions(prediction.output)}, prediction.version.version)

    def _table(self, kind: str, body: bytes) -> PayloadReader:
        """Make a reader that gets the signature, because the text of a CSV has no types of its own."""

        async def read(signature: Signature) -> Payload:
            limits = TableLimits(self._service.limits.columns, self._table_bytes, self._service.limits.rows)
            if kind == CSV:
                return Payload("columns", await asyncio.to_thread(csv_columns, body, signature, limits))
            return Payload("columns", *await self._read_parquet(body, signature.required_columns, limits))

        return read


@lru_cache(maxsize=256)
def media_type(header: bytes) -> str:
    """Parse the content type of a body; JSON is the default.

    Raises:
        UnsupportedMediaType: not JSON, CSV or Parquet, a charset other than UTF-8, or an unknown parameter.
    """
    kind, *pairs = [part.strip() for part in header.decode("latin-1").split(";")]
    for key, _, value in (pair.partition("=") for pair in pairs if pair):
        if key.strip().lower() != "charset":
            raise UnsupportedMediaType(f"unsupported content-type parameter {short(key)}; send only charset")
        if value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType(f"unsupported charset {short(value)}; send UTF-8")
    kind = kind.lower() or JSON
    if kind not in (JSON, CSV, PARQUET):
        raise UnsupportedMediaType(f"unsupported content-type {short(kind)}; send {JSON}, {CSV} or {PARQUET}")
    return kind


def _payload(body: InvocationsRequest) -> Payload | PayloadReader:
    given = [form for form in _FORMS if getattr(body, form) is not None]
    if len(given) != 1:
        found = " and ".join(f"'{form}'" for form in given) or "none of them"
        raise MalformedBody(f"send exactly one of {', '.join(_FORMS)}; the body has {found}", {"allowed": [*_FORMS]})
    if not isinstance(body.params, dict | None):
        raise InvalidInput(
            f"'params' is {short(body.params)}, expected an object of names and values", {"parameter": "params"}
        )
    if body.dataframe_split is not None:
        return _split(body.dataframe_split)
    if body.dataframe_records is not None:
        return Payload("records", body.dataframe_records)
    if isinstance(body.instances, list):
        return Payload("instances", body.instances)
    return Payload("inputs", body.inputs if body.instances is None else body.instances)


def _split(frame: SplitFrame) -> Payload | PayloadReader:
    columns = frame.labels()
    values = frame.values(len(columns))
    row_labels = frame.row_labels()
    if {*map(type, columns)} == {str}:  # the usual case, the same for every signature
        return Payload("columns", dict(zip(columns, values, strict=True)), row_labels)

    async def read(signature: Signature) -> Payload:
        # A model without names in its signature gets the labels as they are, which may be numbers.
        typed = signature.tensor or (signature.columns and not (signature.is_positional or signature.hinted))
        names = map(str, columns) if typed else columns
        return Payload("columns", dict(zip(names, values, strict=True)), row_labels)

    return read
