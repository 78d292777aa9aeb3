"""The ASGI application of a gateway replica: every route, in one place.

FastAPI owns the documented schema and answers what is not hot. `Front` stands before it and hands requests for
predictions straight to their endpoints.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import Counter, Histogram
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_exporter import PrometheusMiddleware, handle_metrics

from app import __version__
from app.api import bodies
from app.api.errors import legacy_error, v1_error
from app.api.exchange import ErrorEncoder, Exchange, Handler, HttpLimits, Reply
from app.api.legacy import LegacyDialect
from app.api.system import SystemEndpoints
from app.api.v1 import PREFIX, V1Dialect
from app.errors import InvalidRequest, NotFound, ServingError
from app.serving.ports import ModelManager
from app.serving.service import PredictionService

_APP_NAME = "ml_serve"
_SUMMARY = "Predictions by models of the MLflow registry, with features from Feast."
_STATUSES_WITH_BODY = (400, 404, 413, 415, 429, 500, 503, 504)
_STATUSES_WITH_REFERENCE = (400, 404, 503)
_REFERENCE: dict[str, Any] = {
    "name": "ref",
    "in": "path",
    "required": True,
    "description": "`name`, `name@alias` or `name/versions/N`.",
    "schema": {"type": "string"},
}
_HEADERS: list[dict[str, Any]] = [
    {
        "name": "x-request-id",
        "in": "header",
        "description": "Name of this request, echoed in the answer; made where it is absent.",
        "schema": {"type": "string", "maxLength": 128},
    },
    {
        "name": "x-request-timeout-seconds",
        "in": "header",
        "description": "Seconds after which an answer is of no use any more.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
]


class Endpoint:
    """A handler as an ASGI application: it replies to every request, whatever happens.

    Args:
        template: the route's path template, a label of the HTTP metrics.
    """

    def __init__(self, handler: Handler, encode_error: ErrorEncoder, limits: HttpLimits, template: str) -> None:
        self._handler = handler
        self._encode_error = encode_error
        self._limits = limits
        self._template = template
        self._meters: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.exporter: PrometheusMiddleware | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange(scope, receive, self._limits)
        try:
            reply = await self._handler(exchange)
        except Exception as error:
            reply = self._encode_error(error, exchange)
        await exchange.reply(reply, send)
        if self.exporter is not None:
            self._count(self.exporter, scope["method"], reply.status, time.perf_counter() - started)

    def _count(self, exporter: PrometheusMiddleware, method: str, status: int, seconds: float) -> None:
        """What starlette-exporter would count, had the request passed through it."""
        meters = self._meters.get((method, status))
        if meters is None:
            labels = (method, self._template, status, _APP_NAME)
            meters = exporter.request_count.labels(*labels), exporter.request_time.labels(*labels)
            self._meters[method, status] = meters
        meters[0].inc()
        meters[1].observe(seconds)


class _Handoff(Response):
    """A FastAPI response that lets an ASGI endpoint answer."""

    def __init__(self, endpoint: ASGIApp) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


class Front:
    """Sends ``POST``s for predictions to their endpoints and everything else to `app`."""

    def __init__(self, app: ASGIApp, documented: FastAPI, serve: Endpoint, predict: Endpoint) -> None:
        self._app = app
        self.openapi = documented.openapi
        self._serve = serve
        self._predict = predict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path in ("/serve", "/"):
                await self._serve(scope, receive, send)
                return
            if path.startswith(PREFIX) and path.endswith(":predict"):
                await self._predict(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(service: PredictionService, manager: ModelManager, limits: HttpLimits) -> Front:
    """Build the application of one gateway replica."""
    legacy = LegacyDialect(service, manager)
    v1 = V1Dialect(service, manager)
    system = SystemEndpoints(manager)
    app = FastAPI(title="ML Serve Gateway", version=__version__, summary=_SUMMARY)

    def route(
        method: str,
        path: str,
        handler: Handler,
        *,
        tag: str,
        body: type[BaseModel] | None = None,
        answer: type[BaseModel] | None = None,
        documented: bool = True,
    ) -> Endpoint:
        of_v1 = path.startswith("/v1")
        endpoint = Endpoint(handler, v1_error if of_v1 else legacy_error, limits, path)

        async def handoff(request: Request) -> Response:
            return _Handoff(endpoint)

        handoff.__name__ = f"{tag}_{handler.__name__}"
        error = {"model": bodies.V1Error if of_v1 else bodies.ServeError}
        statuses = _STATUSES_WITH_BODY if body else _STATUSES_WITH_REFERENCE if "{" in path else ()
        errors: dict[int | str, dict[str, Any]] = {status: dict(error) for status in statuses}
        app.add_api_route(
            path,
            handoff,
            methods=[method],
            tags=[tag],
            summary=(handler.__doc__ or "").split("\n")[0],
            response_model=None,
            responses={200: {"model": answer}, **errors} if answer else errors,
            openapi_extra=_request(path, body),
            include_in_schema=documented,
        )
        return endpoint

    serve = route("POST", "/serve", legacy.serve, tag="serve", body=bodies.ServeRequest, answer=bodies.ServeResponse)
    route("POST", "/", legacy.serve, tag="serve", documented=False)
    predict = route(
        "POST",
        PREFIX + "{ref:path}:predict",
        v1.predict,
        tag="v1",
        body=bodies.PredictRequest,
        answer=bodies.PredictResponse,
    )
    route("GET", "/v1/models", v1.models, tag="v1")
    route("GET", "/v1/status", v1.status, tag="v1")
    route("POST", PREFIX + "{ref:path}:load", v1.load, tag="v1")
    route("POST", PREFIX + "{ref:path}:unload", v1.unload, tag="v1")
    route("GET", PREFIX + "{ref:path}", v1.model, tag="v1")
    route("GET", "/health", system.health, tag="system")
    route("GET", "/livez", system.alive, tag="system")
    route("GET", "/readyz", system.ready, tag="system")
    app.add_api_route("/metrics", handle_metrics, tags=["system"], summary="Prometheus metrics.", response_model=None)
    _shape_errors(app, limits)

    exporter = PrometheusMiddleware(
        app,
        app_name=_APP_NAME,
        prefix="http",
        group_paths=True,
        group_unhandled_paths=True,
        filter_unhandled_paths=False,
    )
    serve.exporter = predict.exporter = exporter
    return Front(exporter, app, serve, predict)


def _request(path: str, body: type[BaseModel] | None) -> dict[str, Any] | None:
    """What FastAPI cannot read from a handler that takes the bare request."""
    parameters = [_REFERENCE] if "{ref" in path else []
    if body is None:
        return {"parameters": parameters} if parameters else None
    content = {"application/json": {"schema": body.model_json_schema()}}
    return {"parameters": [*parameters, *_HEADERS], "requestBody": {"required": True, "content": content}}


def _shape_errors(app: FastAPI, limits: HttpLimits) -> None:
    """Errors of FastAPI's own router (no such path, wrong method) in the dialect of the path."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        fault: ServingError = NotFound(f"there is nothing at {request.url.path[:120]}; see /docs")
        if error.status_code == 405 and request.method == "POST" and request.url.path.startswith(PREFIX):
            fault = NotFound("a POST to a model ends in ':predict', ':load' or ':unload'")
            error = HTTPException(404)
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            fault = InvalidRequest(f"{request.method} is not possible here; allowed: {allowed}")
        elif error.status_code != 404:
            fault = InvalidRequest(str(error.detail))

        exchange = Exchange(request.scope, request.receive, limits)
        encode = v1_error if request.url.path.startswith("/v1") else legacy_error
        further = tuple((key.lower().encode(), value.encode()) for key, value in (error.headers or {}).items())
        reply = Reply(encode(fault, exchange).body, error.status_code, further)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await exchange.reply(reply, send)

        return _Handoff(answer)

    app.add_exception_handler(HTTPException, http_error)
