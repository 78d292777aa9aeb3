"""The Open Inference Protocol over gRPC: one method per call, for the `Gateway` that Serve's gRPC ingress calls."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from app import __version__, errors
from app.api.http.errors import known
from app.api.http.exchange import SESSION_HEADER, positive_seconds
from app.api.oip.endpoints import EXTENSIONS, NAME, version_reference
from app.api.oip.metadata import TensorMetadata
from app.api.oip.protobuf import read_infer, write_infer
from app.api.oip.service import InferenceService, earliest
from app.errors import ServingError, Unsupported
from app.oip import inference_pb2 as pb
from app.serving.references import parse_ref

T = TypeVar("T")

CODES: dict[type[ServingError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CallerGone: grpc.StatusCode.CANCELLED,
    errors.ServingError: grpc.StatusCode.INTERNAL,
}
"""Code of each class and of those below it that are not named themselves."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONGEST_MESSAGE = 1024  # gRPC keeps all metadata of an answer within 8 KiB
_MAX_REQUEST_ID = 128


class Context(Protocol):
    """What is used of Serve's ``RayServegRPCContext``."""

    def invocation_metadata(self) -> Any: ...
    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


class InferenceServicer:
    """Answers every call; a call that cannot be answered gets a status and its message, and never raises.

    A caller whose deadline passes, or who goes away, cancels the method: what waits in a batch is withdrawn.

    Args:
        timeout_s: seconds that a call may take where its caller sets no deadline.
        registry: gets the metrics ``grpc_requests`` and ``grpc_request_duration_seconds``.
    """

    def __init__(self, inference: InferenceService, timeout_s: float, registry: CollectorRegistry = REGISTRY) -> None:
        self._inference = inference
        self._timeout_s = timeout_s
        self._requests = Counter("grpc_requests", "gRPC calls answered.", ("method", "code"), registry=registry)
        self._seconds = Histogram(
            "grpc_request_duration_seconds",
            "Time to answer a gRPC call.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """This replica runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """The models that should be served are loaded."""
        return pb.ServerReadyResponse(ready=self._inference.ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return pb.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether a version is loaded."""

        async def work() -> pb.ModelReadyResponse:
            ready = await self._inference.is_ready(version_reference(request.name, request.version))
            return pb.ModelReadyResponse(ready=ready)

        return await self._answer("ModelReady", work, pb.ModelReadyResponse, context)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """The tensors that a model takes and gives."""

        async def work() -> pb.ModelMetadataResponse:
            model = await self._inference.metadata(version_reference(request.name, request.version))
            return pb.ModelMetadataResponse(
                name=model.name,
                versions=model.versions,
                platform=model.platform,
                inputs=map(_tensor, model.inputs),
                outputs=map(_tensor, model.outputs),
            )

        return await self._answer("ModelMetadata", work, pb.ModelMetadataResponse, context)

    async def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Predict."""

        async def work() -> pb.ModelInferResponse:
            received = asyncio.get_running_loop().time()
            ref = version_reference(request.model_name, request.model_version)
            asked = read_infer(request, ref, self._deadline(received, context))
            asked.session = partial(_metadata, context, SESSION_HEADER.decode())
            if asked.parameters:
                asked.deadline = earliest(asked.deadline, received, asked.parameters)
            answer = await self._inference.infer(asked)
            context.set_trailing_metadata([("x-model-version", answer.version.version)])
            return write_infer(answer, request)

        return await self._answer("ModelInfer", work, pb.ModelInferResponse, context)

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Model versions and their states."""

        async def work() -> pb.RepositoryIndexResponse:
            entries = await self._inference.index(ready=request.ready)
            models = (pb.RepositoryIndexResponse.ModelIndex(**entry._asdict()) for entry in entries)
            return pb.RepositoryIndexResponse(models=models)

        return await self._answer("RepositoryIndex", work, pb.RepositoryIndexResponse, context)

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Make a version resident and warm."""

        async def work() -> pb.RepositoryModelLoadResponse:
            if any(name == "config" or name.startswith("file:") for name in request.parameters):
                raise Unsupported("models and their configuration come from the registry, not from the request")
            await self._inference.load(parse_ref(request.model_name))
            return pb.RepositoryModelLoadResponse()

        return await self._answer("RepositoryModelLoad", work, pb.RepositoryModelLoadResponse, context)

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Let a version go; with a bare name every loaded version of the model."""

        async def work() -> pb.RepositoryModelUnloadResponse:
            await self._inference.unload(parse_ref(request.model_name))
            return pb.RepositoryModelUnloadResponse()

        return await self._answer("RepositoryModelUnload", work, pb.RepositoryModelUnloadResponse, context)

    async def _answer(
        self, method: str, work: Callable[[], Awaitable[T]], empty: Callable[[], T], context: Context
    ) -> T:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            return await work()
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            fault = known(error, _request_id(context))
            code = code_of(fault)
            context.set_code(code)
            context.set_details(fault.message[:_LONGEST_MESSAGE])
            retry_after = fault.details.get("retry_after_s")
            further = [("retry-after", str(retry_after))] if retry_after is not None else []
            context.set_trailing_metadata([("x-error-code", fault.code), *further])
            return empty()
        finally:
            self._requests.labels(method, code.name).inc()
            self._seconds.labels(method).observe(time.perf_counter() - started)

    def _deadline(self, received: float, context: Context) -> float:
        given = _metadata(context, "x-request-timeout-seconds")
        return received + (self._timeout_s if given is None else positive_seconds(given))


def code_of(error: ServingError) -> grpc.StatusCode:
    """The code of the nearest class in `CODES`."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def _tensor(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _metadata(context: Context, name: str) -> str | None:
    return next((str(value) for key, value in context.invocation_metadata() if key == name), None)


def _request_id(context: Context) -> str:
    given = _metadata(context, "x-request-id") or _metadata(context, "request_id") or ""
    return given if 0 < len(given) <= _MAX_REQUEST_ID and given.isprintable() else uuid.uuid4().hex
