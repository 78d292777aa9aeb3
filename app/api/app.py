"""The ASGI application of a gateway replica, with the routes of every dialect.

FastAPI documents all routes and its router finds most of them. `HotRoutes` stands in front of it and sends predictions
straight to their endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette_exporter import PrometheusMiddleware

from app import __version__
from app.api.bodies import ServeError, V1Error
from app.api.http.access import EVERYBODY, Access
from app.api.http.body_budget import BodyBudget
from app.api.http.disconnects import DisconnectWatch
from app.api.http.errors import ErrorBody, error_reply
from app.api.http.exchange import Exchange, HttpLimits
from app.api.http.hot_routes import HotRoutes
from app.api.http.observation import Observer
from app.api.http.routing import APP_NAME, JSON, SECURITY_SCHEMES, Endpoint
from app.api.mlflow.bodies import InvocationsError
from app.api.mlflow.endpoints import MlflowDialect
from app.api.mlflow.parquet import parquet_table
from app.api.mlflow.tables import ParquetReader, Table, TableLimits
from app.api.oip.endpoints import OipDialect
from app.api.oip.service import InferenceService
from app.api.serve.endpoints import ServeDialect
from app.api.system.docs import DocsPages
from app.api.system.health import SystemEndpoints, own_metrics
from app.api.system.openapi import OpenApi
from app.api.v1.compare import ComparisonEndpoint
from app.api.v1.predict import V1Dialect
from app.api.v1.releases import ReleaseEndpoints
from app.errors import InvalidRequest, NotFound, ServingError
from app.serving.ports import ModelManager
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef

_SUMMARY = "Predictions of models from the MLflow registry, with features from Feast."


async def parquet_in_thread(body: bytes, required: Collection[str], limits: TableLimits) -> Table:
    """Read a Parquet file in a thread, where nobody else's requests are at risk."""
    return await asyncio.to_thread(parquet_table, body, required, limits)


def create_app(
    service: PredictionService,
    manager: ModelManager,
    limits: HttpLimits,
    *,
    default_model: ModelRef | None = None,
    read_parquet: ParquetReader = parquet_in_thread,
    access: Access = EVERYBODY,
    scrape: Callable[[], Awaitable[bytes]] = own_metrics,
    observer: Observer | None = None,
) -> HotRoutes:
    """Build the application of one gateway replica; a bare ``/invocations`` predicts with `default_model`."""
    app = FastAPI(
        title="ML Serve Gateway",
        version=__version__,
        summary=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would lack the path prefix that a gateway in front has stripped
    )
    exporter = PrometheusMiddleware(
        app,
        app_name=APP_NAME,
        prefix="http",
        group_paths=True,
        group_unhandled_paths=True,
        filter_unhandled_paths=False,
    )

    @cache
    def openapi() -> dict[str, Any]:
        documented = [route.described(secured=access.is_on) for route in routes if route.documented]
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=documented)
        if access.is_on:
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
        return document

    dialects = (
        ServeDialect(service, manager, access),
        V1Dialect(service, manager),
        ReleaseEndpoints(manager),
        ComparisonEndpoint(service, manager),
        OipDialect(InferenceService(service, manager)),
        MlflowDialect(service, manager, limits.body_bytes, read_parquet, default_model),
        SystemEndpoints(manager, scrape),
        OpenApi(service, manager, openapi),
        DocsPages(),
    )
    routes = [route for dialect in dialects for route in dialect.routes()]
    routes.sort(key=lambda route: route.path.endswith("}"))  # a parameter at the end matches any longer path
    watch, budget = DisconnectWatch(limits.timeout_s), BodyBudget(limits.arriving_bytes)
    endpoints = [Endpoint(route, limits, watch, budget, exporter, access=access, observer=observer) for route in routes]
    app.router.routes += endpoints
    app.add_exception_handler(HTTPException, partial(_router_error, limits))
    return HotRoutes(exporter, openapi, [endpoint for endpoint in endpoints if endpoint.is_hot])


async def _router_error(limits: HttpLimits, request: Request, error: Exception) -> Response:
    """Answer an error of FastAPI's router, no such path or a wrong method, in the form of the path's dialect."""
    assert isinstance(error, HTTPException)
    fault = _fault(request, error)
    exchange = Exchange(request.scope, request.receive, limits)
    status, headers = (404, {}) if isinstance(fault, NotFound) else (error.status_code, dict(error.headers or {}))
    if limits.echo_request_id:
        headers["x-request-id"] = exchange.request_id
    return Response(error_reply(fault, exchange, _error_body(request.url.path)).body, status, headers, JSON)


def _error_body(path: str) -> type[ErrorBody]:
    if path.startswith(("/invocations", "/models/", "/ping", "/version")):
        return InvocationsError
    return V1Error if path.startswith(("/v1", "/v2")) else ServeError


def _fault(request: Request, error: HTTPException) -> ServingError:
    path = request.url.path
    if error.status_code == 404:
        return NotFound(f"no such endpoint: {path[:120]}; see /docs")
    if error.status_code == 405 and request.method == "POST" and path.startswith("/v1/models/"):
        verbs = "':predict', ':load', ':unload', ':promote' or ':rollback'"
        return NotFound(f"no such endpoint: {path[:120]}; a POST to a model ends in {verbs}")
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return InvalidRequest(f"method {request.method} is not allowed for {path[:120]}; allowed: {allowed}")
    return InvalidRequest(str(error.detail))
