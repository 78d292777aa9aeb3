"""Routes as dialects declare them, and the endpoints that `app.api.app` makes of them.

A dialect is a class with handlers of an `Exchange` and a method ``routes``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastapi.routing import APIRoute
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, TypeAdapter
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send
from starlette_exporter import PrometheusMiddleware

from app.api.http.access import Access
from app.api.http.audit import write_audit
from app.api.http.body_budget import BodyBudget
from app.api.http.disconnects import DisconnectWatch
from app.api.http.errors import ErrorBody, error_reply
from app.api.http.exchange import Exchange, Handler, HttpLimits
from app.api.http.observation import ObservedRoute, Observer
from app.errors import BodyTimeout, CallerGone, ServingError
from app.serving.callers import MANAGE
from app.settings import ScopeName

APP_NAME = "ml_serve"
"""Label of the HTTP metrics."""

JSON = "application/json"


def parameter(place: str, name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Describe a parameter for OpenAPI, required unless it is a header; its type is a string unless `schema` says."""
    required = {"required": True} if place != "header" else {}
    schema = {"type": "string", **schema}
    return {"name": name, "in": place, **required, "description": description, "schema": schema}


_REFERENCE = parameter("path", "ref", "`name`, `name@alias` or `name/versions/N`.")
_HEADERS = (
    parameter("header", "x-request-id", "Id of the request. Default: a generated one.", maxLength=128),
    parameter(
        "header",
        "x-request-timeout-seconds",
        "Seconds until the gateway answers 504. Default: the gateway's own deadline for predictions.",
        type="number",
        exclusiveMinimum=0,
    ),
)
_SESSION = parameter("header", "x-session-id", "Keeps a caller on one version while the model's traffic is split.")
SECURITY: Sequence[Mapping[str, Sequence[str]]] = [{"bearer": []}, {"api_key": []}]
"""Either of the schemes in `SECURITY_SCHEMES`."""
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JSON Web Token."},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}
_STATUSES_OF_BODY = (400, 404, 408, 413, 415, 429, 500, 503, 504)
_STATUSES_OF_REFERENCE = (400, 404, 503)


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint of a dialect and its documentation.

    Args:
        path: FastAPI's template; ``{ref:path}`` holds a model reference, which may contain slashes.
        error: encodes and documents errors in the form of the dialect.
        body: request body: a model of the JSON, or OpenAPI's media types, with types in place of schemas.
        answer: body of status 200: a model of the JSON, a union of models, or OpenAPI's media types, as for `body`.
        hot: answered ahead of FastAPI's router.
        parameters: OpenAPI parameters beside the reference and the headers of every request with a body.
        statuses: error statuses beside those of every request with a body or a reference.
        documented: whether the OpenAPI document contains it.
        scopes: the caller needs one of them; `OPEN` for everybody.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    error: type[ErrorBody]
    body: type[BaseModel] | Mapping[str, Any] | None = None
    answer: Any = None
    hot: bool = False
    parameters: Sequence[Mapping[str, Any]] = ()
    statuses: Sequence[int] = ()
    body_required: bool = True
    documented: bool = True
    scopes: Set[ScopeName] = field(kw_only=True)

    def described(self, *, secured: bool = False) -> APIRoute:
        """Return FastAPI's route for the OpenAPI document. It answers nothing, and is slow to build.

        Args:
            secured: whether callers need credentials.
        """
        return APIRoute(
            self.path,
            lambda: None,  # FastAPI would document the parameters of a handler; `_request` does that
            methods=[self.method],
            tags=[self.tag],
            name=self.name,
            summary=(self.handler.__doc__ or "").split("\n")[0],
            response_model=None,
            responses=self._responses((401, 403) if secured and self.scopes else ()),
            openapi_extra={**self._request(), **({"security": SECURITY if self.scopes else []} if secured else {})},
        )

    @property
    def name(self) -> str:
        """Name of the operation."""
        return f"{self.tag}_{getattr(self.handler, '__name__', 'endpoint')}"

    def _responses(self, refused: Sequence[int]) -> dict[int | str, dict[str, Any]]:
        of_body = _STATUSES_OF_BODY if self.body else ()
        of_reference = _STATUSES_OF_REFERENCE if "{" in self.path else ()
        of_pages = (403, 415) if self.scopes == MANAGE else ()
        errors = sorted({*of_body, *of_reference, *of_pages, *refused, *self.statuses})
        responses: dict[int | str, dict[str, Any]] = {status: {"model": self.error} for status in errors}
        if isinstance(self.answer, Mapping):
            responses[200] = {"content": _inlined(self.answer)}
        elif self.answer is not None:
            responses[200] = {"model": self.answer}
        return responses

    def _request(self) -> dict[str, Any]:
        """Describe parameters and body, which FastAPI cannot read from a handler of an `Exchange`."""
        parameters = [*([_REFERENCE] if "{ref" in self.path else []), *self.parameters]
        if self.body is None:
            return {"parameters": parameters} if parameters else {}
        content = self.body if isinstance(self.body, Mapping) else {JSON: {"schema": self.body}}
        body = {"required": self.body_required, "content": _inlined(content)}
        return {"parameters": [*parameters, *_HEADERS, *([_SESSION] if self.hot else [])], "requestBody": body}


def _inlined(value: Any, parts: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Replace types by their schemas, and references to ``$defs``, which would point nowhere, by their targets."""
    if isinstance(value, type):
        value = TypeAdapter(value).json_schema()
    if isinstance(value, list):
        return [_inlined(item, parts) for item in value]
    if not isinstance(value, Mapping):
        return value
    parts = {**parts, **value.get("$defs", {})}
    rest = {key: _inlined(item, parts) for key, item in value.items() if key not in ("$defs", "$ref")}
    return {**_inlined(parts[value["$ref"].rpartition("/")[2]], parts), **rest} if "$ref" in value else rest


def _observed(route: Route) -> ObservedRoute:
    path = route.path.replace(":path}", "}")
    attributes = {"http.request.method": route.method, "http.route": path, "ml_serve.dialect": route.tag}
    faults = frozenset(range(500, 600))
    return ObservedRoute(f"{route.method} {path}", route.path, attributes, "http.response.status_code", faults)


class Endpoint(StarletteRoute):
    """Starlette's route for a `Route`, for HEAD too if it is for GET: the server sends its headers without the body.

    It replies to every request, also if the handler raises or the caller disconnects. Hot endpoints do not pass through
    `exporter`, so they count their requests in its metrics themselves.
    """

    def __init__(
        self,
        route: Route,
        limits: HttpLimits,
        watch: DisconnectWatch,
        budget: BodyBudget,
        exporter: PrometheusMiddleware,
        *,
        access: Access,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(route.path, route.handler, methods=[route.method], name=route.name)
        self.app = self._answer
        self.is_hot = route.hot
        self._route = route
        self._limits = limits
        self._watch = watch
        self._budget = budget
        self._exporter = exporter
        self._access = access
        self._observer = observer if route.hot else None
        self._observed = _observed(route)
        self._manages = route.scopes == MANAGE
        self._meters: dict[int, tuple[Counter, Histogram]] = {}

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = Exchange(scope, receive, self._limits, self._budget)
        task = self._watch.enter(exchange)
        if self._observer is not None:
            exchange.observation = self._observer.begin(self._observed, started, exchange.headers)
        try:
            if self._manages:
                params = exchange.path_params
                exchange.audit = {"action": self._route.name, "model": params.get("ref") or params.get("name")}
            if self._access.is_on:
                await self._access.admit(exchange, self._route.scopes)
            if self._manages:
                self._access.check_management(exchange)
            reply = await self._route.handler(exchange)
            if reply.parts is not None:
                await exchange.send_parts(reply, reply.parts, send)
        except Exception as error:
            reply = error_reply(error, exchange, self._route.error)
        except asyncio.CancelledError:
            if not (exchange.disconnected or exchange.late):
                raise
            task.uncancel()
            # Nobody reads the reply to a caller who is gone; its status is for the metrics.
            fault = self._too_late() if exchange.late else CallerGone("the caller disconnected")
            reply = error_reply(fault, exchange, self._route.error)
        finally:
            self._watch.leave(exchange)
            exchange.forget_body()
        if not exchange.started:
            await exchange.reply(reply, send)
        if exchange.audit is not None:
            self._audit(exchange, exchange.audit, reply.status)
        if self.is_hot:
            self._count(exchange, reply.status, time.perf_counter() - started)

    def _audit(self, exchange: Exchange, facts: Mapping[str, Any], status: int) -> None:
        write_audit(
            facts,
            exchange.caller,
            exchange.headers,
            peer=(exchange.scope.get("client") or ("-",))[0],
            result=status,
            request_id=exchange.request_id,
        )

    def _too_late(self) -> ServingError:
        seconds = self._limits.timeout_s
        return BodyTimeout(f"the body did not arrive within {seconds:g} s; send it at once", {"seconds": seconds})

    def _count(self, exchange: Exchange, status: int, seconds: float) -> None:
        meters = self._meters.get(status)
        if meters is None:
            labels = (self._route.method, self.path, status, APP_NAME)
            meters = self._exporter.request_count.labels(*labels), self._exporter.request_time.labels(*labels)
            self._meters[status] = meters
        meters[0].inc()
        meters[1].observe(seconds)
        if exchange.observation is not None:
            exchange.observation.caller = exchange.caller.name
            exchange.observation.finish(status, exchange.request_id)
