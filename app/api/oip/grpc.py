"""The Open Inference Protocol over gRPC: one method per call, for the `Gateway` behind Serve's gRPC ingress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Set
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial, wraps
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from app import __version__, errors
from app.api.http.access import EVERYBODY, Access
from app.api.http.audit import write_audit
from app.api.http.errors import known
from app.api.http.exchange import SESSION_HEADER
from app.api.http.header_values import positive_seconds, valid_request_id
from app.api.http.observation import ObservedRequest, ObservedRoute, Observer
from app.api.oip.endpoints import EXTENSIONS, NAME, version_reference
from app.api.oip.protobuf import read_infer, write_infer
from app.api.oip.service import InferenceService, earliest
from app.errors import MalformedBody, ServingError
from app.oip import inference_pb2 as pb
from app.oip.grpc_service import Unreadable
from app.serving.callers import ANYBODY, MANAGE, NOBODY, OBSERVE, PREDICT, SCOPES, Caller
from app.serving.references import parse_ref
from app.settings import ScopeName

R = TypeVar("R")
T = TypeVar("T")

CODES: dict[type[ServingError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
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
"""Status code of each error class; a class that is not listed has the code of its base class."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_INFER = ObservedRoute(
    "inference.GRPCInferenceService/ModelInfer",
    "ModelInfer",
    {"rpc.system": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer", "ml_serve.dialect": "grpc"},
    "rpc.response.status_code",
    frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}),
)
_TRACE = ("traceparent", "tracestate")
_MAX_MESSAGE = 1024  # bytes, each up to three in metadata; gRPC limits all metadata of a response to 8 KiB


class Context(Protocol):
    """The part of Serve's ``RayServegRPCContext`` that is used here."""

    def invocation_metadata(self) -> Any: ...
    def peer(self) -> str: ...
    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


Method: TypeAlias = "Callable[[InferenceServicer, R, Context], Awaitable[T]]"


def _answered(response: type[T]) -> Callable[[Method[R, T]], Method[R, T]]:
    """Turn a method's errors into a status and an empty `response`, and count and time its calls."""
    rpc = response.__name__.removesuffix("Response")

    def decorate(method: Method[R, T]) -> Method[R, T]:
        @wraps(method)
        async def call(self: InferenceServicer, request: R, context: Context) -> T:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                _require_message(request, rpc)
                return await method(self, request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code = _fail(known(error, _request_id(context)), context)
                return response()
            finally:
                self.requests.labels(rpc, code.name).inc()
                self.seconds.labels(rpc).observe(time.perf_counter() - started)

        return call

    return decorate


class InferenceServicer:
    """Methods of `openapi/inference.proto`. A call that fails gets a status and a message; no method raises.

    If the caller's deadline passes or the caller disconnects, the method is cancelled and its rows leave the batch.

    Args:
        timeout_s: seconds for a call without a deadline of its own.
        registry: gets the metrics ``grpc_requests`` and ``grpc_request_duration_seconds``.
    """

    def __init__(
        self,
        inference: InferenceService,
        timeout_s: float,
        registry: CollectorRegistry = REGISTRY,
        access: Access = EVERYBODY,
        observer: Observer | None = None,
    ) -> None:
        self._inference = inference
        self._observer = observer
        self._timeout_s = timeout_s
        self._access = access
        self.requests = Counter("grpc_requests", "Completed gRPC calls.", ("method", "code"), registry=registry)
        self.seconds = Histogram(
            "grpc_request_duration_seconds",
            "Duration of gRPC calls in seconds.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._inference.ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)

    @_answered(pb.ModelReadyResponse)
    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        caller = await self._admit(context, SCOPES)
        ready = await self._inference.is_ready(caller.allowed(version_reference(request.name, request.version)))
        return pb.ModelReadyResponse(ready=ready)

    @_answered(pb.ModelMetadataResponse)
    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        caller = await self._admit(context, SCOPES)
        model = await self._inference.metadata(caller.allowed(version_reference(request.name, request.version)))
        return pb.ModelMetadataResponse(**asdict(model))

    @_answered(pb.ModelInferResponse)
    def model_infer(self, request: pb.ModelInferRequest, context: Context) -> Awaitable[pb.ModelInferResponse]:
        if self._observer is None:
            return self._infer(request, context, None)
        return self._observed(request, context, self._observer)

    async def _observed(
        self, request: pb.ModelInferRequest, context: Context, observer: Observer
    ) -> pb.ModelInferResponse:
        trace = {name.encode(): str(value).encode() for name, value in context.invocation_metadata() if name in _TRACE}
        observation = observer.begin(_INFER, time.perf_counter(), trace)
        if observation is None:
            return await self._infer(request, context, None)
        code = grpc.StatusCode.CANCELLED
        try:
            answer = await self._infer(request, context, observation)
        except Exception as error:
            code = code_of(error) if isinstance(error, ServingError) else grpc.StatusCode.INTERNAL
            observation.failed(error)
            raise
        else:
            code = grpc.StatusCode.OK
            return answer
        finally:
            observation.finish(code.name, _request_id(context))

    async def _infer(
        self, request: pb.ModelInferRequest, context: Context, observation: ObservedRequest | None
    ) -> pb.ModelInferResponse:
        received = asyncio.get_running_loop().time()
        caller = await self._admit(context, PREDICT) if self._access.is_on else ANYBODY
        if observation is not None:
            observation.caller = caller.name
        ref = caller.allowed(version_reference(request.model_name, request.model_version))
        asked = read_infer(request, ref, self._deadline(received, context))
        asked.caller, asked.observation = caller.key, observation
        asked.session = partial(_metadata, context, SESSION_HEADER.decode())
        if asked.parameters:
            asked.deadline = earliest(asked.deadline, received, asked.parameters)
        answer = await self._inference.infer(asked)
        context.set_trailing_metadata([("x-model-version", answer.version.version)])
        return write_infer(answer, request)

    @_answered(pb.RepositoryIndexResponse)
    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        caller = await self._admit(context, OBSERVE)
        entries = await self._inference.index(caller, ready=request.ready)
        return pb.RepositoryIndexResponse(models=map(asdict, entries))

    @_answered(pb.RepositoryModelLoadResponse)
    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async with self._management("grpc_load", request.model_name, context) as caller:
            await self._inference.load(caller.allowed(parse_ref(request.model_name)), request.parameters)
        return pb.RepositoryModelLoadResponse()

    @_answered(pb.RepositoryModelUnloadResponse)
    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async with self._management("grpc_unload", request.model_name, context) as caller:
            await self._inference.unload(caller.allowed(parse_ref(request.model_name)))
        return pb.RepositoryModelUnloadResponse()

    async def _admit(self, context: Context, scopes: Set[ScopeName]) -> Caller:
        """Return the caller, who needs one of `scopes`. Raises `Unauthenticated`, `Forbidden` or `Unavailable`."""
        caller = await self._access.caller(_headers(context))
        caller.require(scopes)
        return caller

    @asynccontextmanager
    async def _management(self, action: str, model: str, context: Context) -> AsyncGenerator[Caller]:
        """Find the caller of a management call, and write the call to the audit log."""
        caller, result = NOBODY, grpc.StatusCode.INTERNAL
        try:
            caller = await self._access.caller(_headers(context))
            caller.require(MANAGE)
            yield caller
            result = grpc.StatusCode.OK
        except ServingError as error:
            result = code_of(error)
            raise
        except asyncio.CancelledError:
            result = grpc.StatusCode.CANCELLED
            raise
        finally:
            facts = {"action": action, "model": model}
            write_audit(
                facts,
                caller,
                _headers(context),
                peer=context.peer(),
                result=result.name,
                request_id=_request_id(context),
            )

    def _deadline(self, received: float, context: Context) -> float:
        given = _metadata(context, "x-request-timeout-seconds")
        return received + (self._timeout_s if given is None else positive_seconds(given))


def _require_message(request: object, rpc: str) -> None:
    if isinstance(request, Unreadable):
        raise MalformedBody(f"the request is not a {rpc}Request message of the protocol")


def _fail(error: ServingError, context: Context) -> grpc.StatusCode:
    code = code_of(error)
    context.set_code(code)
    context.set_details(error.message.encode()[:_MAX_MESSAGE].decode(errors="ignore"))
    retry_after = error.details.get("retry_after_s")
    further = [("retry-after", str(retry_after))] if retry_after is not None else []
    context.set_trailing_metadata([("x-error-code", error.code), *further])
    return code


def code_of(error: ServingError) -> grpc.StatusCode:
    """Look up the code of the error's nearest class in `CODES`."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def _metadata(context: Context, name: str) -> str | None:
    return next((str(value) for key, value in context.invocation_metadata() if key == name), None)


def _headers(context: Context) -> dict[bytes, bytes]:
    pairs = context.invocation_metadata()
    return {str(key).encode(): value if isinstance(value, bytes) else str(value).encode() for key, value in pairs}


def _request_id(context: Context) -> str:
    return valid_request_id(_metadata(context, "x-request-id") or _metadata(context, "request_id") or "")
