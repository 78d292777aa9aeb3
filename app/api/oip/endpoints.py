"""The Open Inference Protocol over HTTP: ``/v2``, with Triton's repository, configuration and statistics extensions."""

from __future__ import annotations

from functools import partial
from typing import Any

from app import __version__
from app.api.bodies import V1Error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import JSON, Route
from app.api.oip import bodies
from app.api.oip.messages import HttpInferRequest, header_length, read_infer, write_infer
from app.api.oip.service import InferenceService, earliest, raw_input
from app.errors import InvalidReference
from app.serving.callers import MANAGE, OBSERVE, OPEN, PREDICT, SCOPES
from app.serving.references import ModelRef, make_ref, parse_ref

NAME = "ml-serve"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")

_BINARY = "application/octet-stream"


class OipDialect:
    """Handlers of ``/v2``. All of them raise `ServingError`."""

    def __init__(self, inference: InferenceService) -> None:
        self._inference = inference

    def routes(self) -> list[Route]:
        """List the endpoints. Longer paths come first, because a reference may contain slashes."""
        route = partial(Route, tag="v2", error=V1Error, scopes=SCOPES)
        ref, resident = "/v2/models/{ref:path}", "/v2/repository/models/{ref:path}"
        asked = {JSON: {"schema": bodies.InferRequestBody}, _BINARY: _described(_REQUEST)}
        answered = {JSON: {"schema": bodies.InferResponseBody}, _BINARY: _described(_RESPONSE)}
        repository = partial(route, body=bodies.RepositoryBody, body_required=False, scopes=MANAGE)
        index_answer = {JSON: {"schema": {"type": "array", "items": bodies.IndexEntry}}}
        return [
            route("GET", "/v2", self.server, answer=bodies.ServerMetadataBody, scopes=OPEN),
            route("GET", "/v2/health/live", self.live, scopes=OPEN),
            route("GET", "/v2/health/ready", self.ready, statuses=(503,), scopes=OPEN),
            route(
                "POST",
                ref + "/infer",
                self.infer,
                body=asked,
                answer=answered,
                hot=True,
                statuses=(501,),
                scopes=PREDICT,
            ),
            route("GET", "/v2/models", self.models),
            route("GET", ref + "/ready", self.model_ready),
            route("GET", ref + "/config", self.config),
            route("GET", ref + "/stats", self.statistics, scopes=OBSERVE),
            route("GET", ref, self.metadata, answer=bodies.ModelMetadata),
            repository(
                "POST", "/v2/repository/index", self.index, body=bodies.IndexBody, answer=index_answer, scopes=OBSERVE
            ),
            repository("POST", resident + "/load", self.load, statuses=(501,)),
            repository("POST", resident + "/unload", self.unload),
        ]

    async def infer(self, exchange: Exchange) -> Reply:
        """Predict tensors."""
        deadline, ref = exchange.deadline, _reference(exchange)
        body = await exchange.body()
        length = header_length(exchange.headers, body)
        if length or not body:
            asked = read_infer(exchange.parse(body[:length], constants=True), memoryview(body)[length:], ref, deadline)
        else:
            asked = HttpInferRequest(ref, deadline, raw_input(body), binary=True)
        asked.session, asked.caller = exchange.session, exchange.caller.key
        asked.observation = exchange.observation
        if asked.parameters:
            asked.deadline = earliest(deadline, exchange.received, asked.parameters)
        return write_infer(await self._inference.infer(asked), asked)

    async def server(self, exchange: Exchange) -> Reply:
        """Describe the server: name, version and extensions."""
        return Reply(dump({"name": NAME, "version": __version__, "extensions": EXTENSIONS}))

    async def live(self, exchange: Exchange) -> Reply:
        """Check that this replica runs."""
        return Reply(b'{"live":true}')

    async def ready(self, exchange: Exchange) -> Reply:
        """Check that all models that should be served are loaded."""
        return Reply(b'{"ready":true}') if self._inference.ready else Reply(b'{"ready":false}', 503)

    async def models(self, exchange: Exchange) -> Reply:
        """List the names of the registered models."""
        return Reply(dump({"models": list(filter(exchange.caller.may_use, await self._inference.names()))}))

    async def model_ready(self, exchange: Exchange) -> Reply:
        """Check that a model is loaded."""
        ref = _reference(exchange)
        ready = await self._inference.is_ready(ref)
        return Reply(dump({"name": ref.name, "ready": ready}), 200 if ready else 503)

    async def metadata(self, exchange: Exchange) -> Reply:
        """Describe a model's inputs and outputs."""
        return Reply(dump(await self._inference.metadata(_reference(exchange))))

    async def config(self, exchange: Exchange) -> Reply:
        """Describe a model's configuration in Triton's form."""
        model = await self._inference.metadata(_reference(exchange))
        body = {
            "name": model.name,
            "platform": model.platform,
            "backend": "mlflow",
            # The shapes below include the dimension of the rows.
            "max_batch_size": 0,
            "input": [_config(tensor) for tensor in model.inputs],
            "output": [_config(tensor) for tensor in model.outputs],
        }
        return Reply(dump(body))

    async def statistics(self, exchange: Exchange) -> Reply:
        """Return the counts of a model version in Triton's form."""
        version, counted = await self._inference.statistics(_reference(exchange))
        body = {
            "name": version.name,
            "version": version.version,
            "inference_count": counted.rows,
            "execution_count": counted.batches,
            "inference_stats": {
                "success": _duration(counted.requests, counted.request_seconds),
                "fail": _duration(counted.failures, 0.0),
                "compute_infer": _duration(counted.batches, counted.batch_seconds),
            },
        }
        return Reply(dump({"model_stats": [body]}))

    async def index(self, exchange: Exchange) -> Reply:
        """List model versions and their states."""
        body = bodies.IndexBody.read(await exchange.json(optional=True))
        return Reply(dump(await self._inference.index(exchange.caller, ready=body.ready)))

    async def load(self, exchange: Exchange) -> Reply:
        """Make a version resident and warm."""
        body = bodies.RepositoryBody.read(await exchange.json(optional=True))
        ref = _reference(exchange)
        await exchange.in_time(self._inference.load(ref, body.parameters or ()))
        return Reply(b"{}")

    async def unload(self, exchange: Exchange) -> Reply:
        """Evict a version; with a bare name every loaded version of the model."""
        bodies.RepositoryBody.read(await exchange.json(optional=True))
        await exchange.in_time(self._inference.unload(_reference(exchange)))
        return Reply(b"{}")


def _reference(exchange: Exchange) -> ModelRef:
    """Read the reference in a path."""
    name, separator, version = exchange.path_params["ref"].partition("/versions/")
    if separator and not version:
        raise InvalidReference(
            f"'{name[:80]}': the version after '/versions/' is missing; write '{name[:80]}/versions/N'",
            {"reference": name[:80]},
        )
    return exchange.caller.allowed(version_reference(name, version))


def version_reference(name: str, version: str) -> ModelRef:
    """Make a reference from the protocol's name and version, which is text and may be an alias.

    Without a version, the name may itself be a reference. Raises `InvalidReference`.
    """
    if not version:
        return parse_ref(name)
    return make_ref(name, version=version) if version.isdigit() else make_ref(name, alias=version)


def _config(tensor: bodies.TensorMetadata) -> dict[str, Any]:
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": tensor.shape}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


_REQUEST = (
    "The JSON, whose length is in the header `Inference-Header-Content-Length`, then the tensors with a "
    "`binary_data_size`, in order. If that header is 0: only the bytes of the model's single input."
)
_RESPONSE = "The JSON, whose length is in the header `Inference-Header-Content-Length`, then the outputs as bytes."


def _described(text: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": text}}
