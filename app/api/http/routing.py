"""Routes as dialects declare them, and the endpoint that stands behind each.

A dialect is a class with handlers of an `Exchange` and a method ``routes``; `app.api.app` joins them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from prometheus_client import Counter, Histogram
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send
from starlette_exporter import PrometheusMiddleware

from app.api.http.disconnects import Departures
from app.api.http.exchange import ErrorEncoder, Exchange, Handler, HttpLimits
from app.errors import CallerGone

APP_NAME = "ml_serve"
"""Label of the HTTP metrics."""

JSON = "application/json"

REFERENCE: dict[str, Any] = {
    "name": "ref",
    "in": "path",
    "required": True,
    "description": "`name`, `name@alias` or `name/versions/N`.",
    "schema": {"type": "string"},
}
_HEADERS: tuple[dict[str, Any], ...] = (
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
)
_SESSION = {
    "name": "x-session-id",
    "in": "header",
    "description": "Keeps a caller with one version, where calls to the model's name are divided among several.",
    "schema": {"type": "string"},
}
_STATUSES_OF_BODY = (400, 404, 413, 415, 429, 500, 503, 504)
_STATUSES_OF_REFERENCE = (400, 404, 503)


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint and how it is documented.

    Args:
        path: FastAPI's template; a parameter ``{ref:path}`` holds a model reference, whose separators are slashes.
        encode_error: the dialect's shape of errors, described by the model `error`.
        body: what is sent: a model of the JSON, or OpenAPI's media types by content type.
        answer: what comes back with status 200: a model of the JSON, a union of models, or OpenAPI's media types by
            content type.
        hot: answered before FastAPI's router is asked; at most one parameter.
        parameters: OpenAPI's parameters beside the reference and the headers that every request with a body may have.
        statuses: of errors, beside those that follow from a body and a reference.
        documented: whether it is in the schema.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    encode_error: ErrorEncoder
    error: type[BaseModel]
    body: type[BaseModel] | Mapping[str, Any] | None = None
    answer: Any = None
    hot: bool = False
    parameters: Sequence[Mapping[str, Any]] = ()
    statuses: Sequence[int] = ()
    body_required: bool = True
    documented: bool = True

    @property
    def prefix(self) -> str:
        """The path before its parameter."""
        return self.path.partition("{")[0]

    @property
    def suffix(self) -> str:
        """The path after its parameter; empty where it has none."""
        return self.path.rpartition("}")[2] if "{" in self.path else ""

    def responses(self) -> dict[int | str, dict[str, Any]]:
        """OpenAPI's responses as FastAPI takes them."""
        of_body = _STATUSES_OF_BODY if self.body else ()
        of_reference = _STATUSES_OF_REFERENCE if "{" in self.path else ()
        errors = sorted({*of_body, *of_reference, *self.statuses})
        found: dict[int | str, dict[str, Any]] = {status: {"model": self.error} for status in errors}
        if isinstance(self.answer, Mapping):
            found[200] = {"content": _inlined(self.answer)}
        elif self.answer is not None:
            found[200] = {"model": self.answer}
        return found

    def extra(self) -> dict[str, Any]:
        """What FastAPI cannot read from a handler that takes the bare request."""
        parameters: list[Mapping[str, Any]] = [REFERENCE] if "{ref" in self.path else []
        parameters += self.parameters
        if self.body is None:
            return {"parameters": parameters} if parameters else {}
        content = self.body if isinstance(self.body, Mapping) else {JSON: {"schema": self.body.model_json_schema()}}
        request = {"required": self.body_required, "content": _inlined(content)}
        further = [*_HEADERS, _SESSION] if self.hot else _HEADERS
        return {"parameters": [*parameters, *further], "requestBody": request}


def _inlined(value: Any, parts: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A schema, or what holds some, without ``$defs``: inside an OpenAPI document references to them lead nowhere."""
    if isinstance(value, list):
        return [_inlined(item, parts) for item in value]
    if not isinstance(value, Mapping):
        return value
    parts = {**parts, **value.get("$defs", {})}
    rest = {key: _inlined(item, parts) for key, item in value.items() if key not in ("$defs", "$ref")}
    return {**_inlined(parts[value["$ref"].rpartition("/")[2]], parts), **rest} if "$ref" in value else rest


@dataclass(slots=True)
class Endpoint:
    """A route as an ASGI application: it replies to every request, whatever happens.

    `exporter` is set where requests do not pass through it, and are counted here.
    """

    route: Route
    limits: HttpLimits
    departures: Departures
    exporter: PrometheusMiddleware | None = None
    _meters: dict[tuple[str, int], tuple[Counter, Histogram]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange(scope, receive, self.limits)
        task = self.departures.enter(exchange)
        try:
            reply = await self.route.handler(exchange)
        except Exception as error:
            reply = self.route.encode_error(error, exchange)
        except asyncio.CancelledError:
            if not exchange.is_abandoned:
                raise
            task.uncancel()
            # Nobody reads it; its status is what is counted.
            reply = self.route.encode_error(CallerGone("the caller has gone"), exchange)
        finally:
            self.departures.leave(exchange)
        await exchange.reply(reply, send)
        if self.exporter is not None:
            self._count(self.exporter, scope["method"], reply.status, time.perf_counter() - started)

    def _count(self, exporter: PrometheusMiddleware, method: str, status: int, seconds: float) -> None:
        """What starlette-exporter would count, had the request passed through it."""
        meters = self._meters.get((method, status))
        if meters is None:
            labels = (method, self.route.path, status, APP_NAME)
            meters = exporter.request_count.labels(*labels), exporter.request_time.labels(*labels)
            self._meters[method, status] = meters
        meters[0].inc()
        meters[1].observe(seconds)
