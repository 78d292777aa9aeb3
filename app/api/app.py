"""The ASGI application of a gateway replica: every dialect's routes, joined.

FastAPI owns the documented schema and answers what is not hot. `Front` stands before it and hands requests for
predictions straight to their endpoints.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_exporter import PrometheusMiddleware, handle_metrics

from app import __version__
from app.api.http.disconnects import Departures
from app.api.http.errors import encoder_of
from app.api.http.exchange import Exchange, HttpLimits, Reply
from app.api.http.hot_routes import Front
from app.api.http.routing import APP_NAME, Endpoint
from app.api.mlflow.endpoints import MlflowDialect
from app.api.oip.endpoints import OipDialect
from app.api.oip.service import InferenceService
from app.api.serve.endpoints import LegacyDialect
from app.api.system.docs import DocsPages
from app.api.system.health import SystemEndpoints
from app.api.system.openapi import OpenApi
from app.api.v1.compare import ComparingEndpoint
from app.api.v1.predict import V1Dialect
from app.api.v1.releases import ReleaseEndpoints
from app.errors import InvalidRequest, NotFound, ServingError
from app.serving.ports import ModelManager
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef

_SUMMARY = "Predictions by models of the MLflow registry, with features from Feast."


class _Handoff(Response):
    """A FastAPI response that lets an ASGI endpoint answer."""

    def __init__(self, endpoint: ASGIApp) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


def create_app(
    service: PredictionService, manager: ModelManager, limits: HttpLimits, *, default_model: ModelRef | None = None
) -> Front:
    """Build the application of one gateway replica; `default_model` is what a bare ``/invocations`` means."""
    app = FastAPI(
        title="ML Serve Gateway",
        version=__version__,
        summary=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # the address that it redirects to lacks what a gateway has stripped from the path
    )
    dialects = (
        LegacyDialect(service, manager),
        V1Dialect(service, manager),
        ReleaseEndpoints(manager),
        ComparingEndpoint(service, manager),
        OipDialect(InferenceService(service, manager)),
        MlflowDialect(service, manager, limits.body_bytes, default_model),
        SystemEndpoints(manager),
        OpenApi(service, manager, app.openapi),
        DocsPages(),
    )
    departures = Departures()
    endpoints = [Endpoint(route, limits, departures) for dialect in dialects for route in dialect.routes()]
    # What ends in a parameter takes any path, so it is asked last.
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.route.path.endswith("}")):
        _add(app, endpoint)
    app.add_api_route(
        "/metrics",
        handle_metrics,
        tags=["system"],
        summary="Prometheus metrics.",
        response_class=PlainTextResponse,
        response_model=None,
    )
    _shape_errors(app, limits)

    exporter = PrometheusMiddleware(
        app,
        app_name=APP_NAME,
        prefix="http",
        group_paths=True,
        group_unhandled_paths=True,
        filter_unhandled_paths=False,
    )
    hot = [endpoint for endpoint in endpoints if endpoint.route.hot]
    for endpoint in hot:
        endpoint.exporter = exporter
    return Front(exporter, app, hot)


def _add(app: FastAPI, endpoint: Endpoint) -> None:
    route = endpoint.route

    async def handoff(request: Request) -> Response:
        return _Handoff(endpoint)

    handoff.__name__ = f"{route.tag}_{getattr(route.handler, '__name__', 'endpoint')}"
    app.add_api_route(
        route.path,
        handoff,
        methods=[route.method],
        tags=[route.tag],
        summary=(route.handler.__doc__ or "").split("\n")[0],
        response_model=None,
        responses=route.responses(),
        openapi_extra=route.extra(),
        include_in_schema=route.documented,
    )


def _shape_errors(app: FastAPI, limits: HttpLimits) -> None:
    """Errors of FastAPI's own router (no such path, wrong method) in the dialect of the path."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        fault: ServingError = NotFound(f"there is nothing at {path[:120]}; see /docs")
        if error.status_code == 405 and request.method == "POST" and path.startswith("/v1/models/"):
            fault = NotFound("a POST to a model ends in ':predict', ':load' or ':unload'")
            error = HTTPException(404)
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            fault = InvalidRequest(f"{request.method} is not possible here; allowed: {allowed}")
        elif error.status_code != 404:
            fault = InvalidRequest(str(error.detail))

        exchange = Exchange(request.scope, request.receive, limits)
        further = tuple((key.lower().encode(), value.encode()) for key, value in (error.headers or {}).items())
        reply = Reply(encoder_of(path)(fault, exchange).body, error.status_code, further)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await exchange.reply(reply, send)

        return _Handoff(answer)

    app.add_exception_handler(HTTPException, http_error)
