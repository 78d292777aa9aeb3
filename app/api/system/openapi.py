"""``GET /openapi.json``: FastAPI's schema of the routes, plus one operation for each loaded model."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from app.api.bodies import ServeError
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import JSON, Route
from app.api.mlflow.bodies import JSON_CALL_SCHEMA
from app.api.system.examples import example_request, example_response
from app.api.v1.predict import PREFIX
from app.errors import ServingError
from app.serving.callers import OPEN
from app.serving.ports import ModelManager
from app.serving.prediction.served_model import ServedModel
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef
from app.serving.releases.table import ModelStatus
from app.serving.signatures.json_schema import request_schema, response_schema

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
"""The document leaves out a model that is not described by then."""
_MAX_CONCURRENT = 16
_MAX_DOCUMENTS = 16
"""Documents in memory: one for the models that a group of callers may use."""
_VARY = b"x-forwarded-prefix, authorization, x-api-key"
_WHOLE = "/invocations/"
"""Where models are called that take a whole JSON object."""
_MAX_PREFIX = 200
# No empty segment: "//host" would be another server.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class DescribedModel(NamedTuple):
    """A model's default version and a sentence on its traffic split, if other versions answer too."""

    model: ServedModel
    split: str | None = None


class OpenApi:
    """The document and its handler, which rebuilds it when the loaded models or their traffic change.

    `routes` returns the schema of the routes, which is not modified.
    """

    def __init__(self, service: PredictionService, manager: ModelManager, routes: Callable[[], dict[str, Any]]) -> None:
        self._service = service
        self._manager = manager
        self._base = routes
        self._documents: dict[tuple[str, ...], tuple[list[DescribedModel], dict[str, Any]]] = {}

    def routes(self) -> list[Route]:
        return [Route("GET", "/openapi.json", self.document, "system", ServeError, documented=False, scopes=OPEN)]

    async def document(self, exchange: Exchange) -> Reply:
        """Describe every endpoint and every model whose default version is loaded."""
        caller = exchange.caller
        served = [one for one in await self._models() if caller.may_use(one.model.spec.name)]
        known, document = self._documents.get(caller.models, (None, {}))
        if served != known:  # a model that was loaded again is another object
            document = build(self._base(), served)
            if len(self._documents) >= _MAX_DOCUMENTS:
                self._documents.clear()
            self._documents[caller.models] = served, document
        prefix = forwarded_prefix(exchange.headers)
        if prefix:
            document = {**document, "servers": [{"url": prefix}]}
        return Reply(dump(document), headers=((b"cache-control", b"no-cache"), (b"vary", _VARY)))

    async def _models(self) -> list[DescribedModel]:
        deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
        try:
            async with asyncio.timeout_at(deadline):
                statuses = await self._manager.status()
        except (ServingError, TimeoutError) as error:
            log.warning("cannot list the models, leaving them out of the OpenAPI document: %s", error)
            return []
        gate = asyncio.Semaphore(_MAX_CONCURRENT)

        async def described(status: ModelStatus) -> DescribedModel | None:
            try:
                async with gate, asyncio.timeout_at(deadline):
                    model = await self._service.model(ModelRef(status.name, version=status.default))
                return DescribedModel(model, _split(status))
            except Exception as error:  # one model must not hide the others
                log.warning(
                    "cannot describe model, leaving it out of the OpenAPI document: model=%s error=%s: %s",
                    status.name,
                    type(error).__name__,
                    error,
                )
                return None

        # Only loaded versions: a look at the documentation must not load models.
        loaded = [one for one in statuses if one.versions.get(one.default or "", {}).get("state") == "ready"]
        found = await asyncio.gather(*map(described, sorted(loaded, key=lambda one: one.name)))
        return [one for one in found if one is not None]


def build(base: Mapping[str, Any], served: Sequence[DescribedModel]) -> dict[str, Any]:
    """Add an operation and a tag for each model to the schema of the routes."""
    paths = dict(base["paths"])
    template, whole = paths[PREFIX + "{ref}:predict"]["post"], paths[_WHOLE + "{ref}"]["post"]
    tags = []
    for model, split in served:
        try:
            name = quote(model.spec.name, safe="")
            if model.takes_json:
                path, operation = f"{_WHOLE}{name}", _whole_operation(model, split, whole)
            else:
                path, operation = f"{PREFIX}{name}:predict", _operation(model, split, template)
        except Exception:  # one model must not hide the others
            log.exception("cannot describe model, leaving it out of the OpenAPI document: model=%s", model.spec.name)
            continue
        paths[path] = {"post": operation}
        text = f"Version {model.spec.version}, {model.spec.flavor}."
        tags.append({"name": model.spec.name, "description": f"{text} {split}" if split else text})
    return {**base, "paths": paths, "tags": tags}


def forwarded_prefix(headers: Mapping[bytes, bytes]) -> str:
    """Return the path prefix that a gateway in front has stripped, from `x-forwarded-prefix`.

    Empty if it is missing or not a plain path, because any caller can send this header.
    """
    given = headers.get(b"x-forwarded-prefix", b"").decode("latin-1").removesuffix("/")
    return given if len(given) <= _MAX_PREFIX and _PREFIX.fullmatch(given) else ""


def _split(status: ModelStatus) -> str | None:
    """Describe the traffic split of a model; None if the default version answers every request."""
    shares = [
        (alias, status.aliases.get(alias, status.default), percent)
        for alias, percent in sorted(status.traffic.items(), key=lambda item: -item[1])
        if percent
    ]
    if all(version == status.default for _, version, _ in shares):
        return None
    text = ", ".join(f"{percent:g} % to version {version} ({alias})" for alias, version, percent in shares)
    return f"Traffic split: {text}."


def _operation(model: ServedModel, split: str | None, template: Mapping[str, Any]) -> dict[str, Any]:
    """Narrow the operation of any model to one; headers and errors stay."""
    spec = model.spec
    text = _versions(model, split)
    request = {"schema": request_schema(spec), "example": example_request(model) or {"instances": []}}
    response = {"schema": response_schema(spec), "example": example_response(spec)}
    return {
        **template,
        "tags": [spec.name],
        "summary": f"Predict with {spec.name}.",
        "description": f"{text} `POST {PREFIX}{{ref}}:predict` shows every form of the body.",
        "operationId": f"predict_{quote(spec.name, safe='')}",
        "parameters": [one for one in template["parameters"] if one["in"] != "path"],
        "requestBody": {"required": True, "content": {JSON: request}},
        "responses": {**template["responses"], "200": {"description": "The predictions.", "content": {JSON: response}}},
    }


def _whole_operation(model: ServedModel, split: str | None, template: Mapping[str, Any]) -> dict[str, Any]:
    """Narrow the operation of MLflow's protocol to a model that takes a whole JSON object."""
    spec = model.spec
    request = {"schema": JSON_CALL_SCHEMA}
    if isinstance(spec.input_example, Mapping):
        request["example"] = dict(spec.input_example)
    return {
        **template,
        "tags": [spec.name],
        "summary": f"Call {spec.name}.",
        "description": f"{_versions(model, split)} It takes a JSON object whole.",
        "operationId": f"invoke_{quote(spec.name, safe='')}",
        "parameters": [one for one in template["parameters"] if one["in"] != "path"],
        "requestBody": {"required": True, "content": {JSON: request}},
    }


def _versions(model: ServedModel, split: str | None) -> str:
    version = model.spec.version
    return f"{split} This describes version {version}." if split else f"Version {version} answers."
