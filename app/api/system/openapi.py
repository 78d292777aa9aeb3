"""``GET /openapi.json``: FastAPI's schema of the routes, and an operation of its own for each model that is served."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from app.api.bodies import ServeError
from app.api.http.errors import legacy_error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import JSON, Route
from app.api.system.examples import example_request, example_response
from app.api.v1.predict import PREFIX
from app.errors import ServingError
from app.serving.ports import ModelManager
from app.serving.prediction.served_model import ServedModel
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef
from app.serving.releases.table import ModelStatus
from app.serving.signatures.json_schema import request_schema, response_schema

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
"""Whatever has not told what it is by then is left out of the document, until it is asked for again."""
_ASKED_AT_ONCE = 16
_LONGEST_PREFIX = 200
# One segment or more, none of them empty: "//host" would be another server.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class Described(NamedTuple):
    """A model's default version, and a sentence on how its calls are divided; None where that version has them all."""

    model: ServedModel
    divided: str | None = None


class OpenApi:
    """The document and its handler. It is built anew only when other models are served than before, or otherwise.

    Args:
        routes: the schema of the routes; asked for when the document is built, and not written into.
    """

    def __init__(self, service: PredictionService, manager: ModelManager, routes: Callable[[], dict[str, Any]]) -> None:
        self._service = service
        self._manager = manager
        self._base = routes
        self._served: list[Described] | None = None
        self._document: dict[str, Any] = {}

    def routes(self) -> list[Route]:
        """The one endpoint."""
        return [Route("GET", "/openapi.json", self.document, "system", legacy_error, ServeError, documented=False)]

    async def document(self, exchange: Exchange) -> Reply:
        """Describe every endpoint, and every model whose default version is loaded."""
        served = await self._models()
        if served != self._served:  # a model that is loaded or registered anew is another object
            self._document = build(self._base(), served)
            self._served = served
        document = self._document
        prefix = forwarded_prefix(exchange.headers)
        if prefix:
            document = {**document, "servers": [{"url": prefix}]}
        return Reply(dump(document), headers=((b"cache-control", b"no-cache"), (b"vary", b"x-forwarded-prefix")))

    async def _models(self) -> list[Described]:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        try:
            async with asyncio.timeout_at(deadline):
                statuses = await self._manager.status()
        except (ServingError, TimeoutError) as error:
            log.warning("the document is without models: it is not known which are served: %s", error)
            return []
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def described(status: ModelStatus) -> Described | None:
            try:
                async with gate, asyncio.timeout_at(deadline):
                    model = await self._service.model(ModelRef(status.name, version=status.default))
                return Described(model, _divided(status))
            except Exception as error:  # the others are to be shown whatever one of them raises
                log.warning("the document is without model %s: %s: %s", status.name, type(error).__name__, error)
                return None

        # Only what is loaded already: looking at the documentation shall load nothing.
        loaded = [one for one in statuses if one.versions.get(one.default or "", {}).get("state") == "ready"]
        found = await asyncio.gather(*map(described, sorted(loaded, key=lambda one: one.name)))
        return [one for one in found if one is not None]


def build(base: Mapping[str, Any], served: Sequence[Described]) -> dict[str, Any]:
    """The document: the schema of the routes with an operation and a tag for each model that can be described."""
    paths = dict(base["paths"])
    template = paths[PREFIX + "{ref}:predict"]["post"]
    tags = []
    for model, divided in served:
        try:
            operation = _operation(model, divided, template)
        except Exception:  # the others are to be shown whatever is wrong with one of them
            log.exception("the document is without model %s", model.spec.name)
            continue
        paths[f"{PREFIX}{quote(model.spec.name, safe='')}:predict"] = {"post": operation}
        told = f"Version {model.spec.version}, {model.spec.flavor}."
        tags.append({"name": model.spec.name, "description": f"{told} {divided}" if divided else told})
    return {**base, "paths": paths, "tags": tags}


def forwarded_prefix(headers: Mapping[bytes, bytes]) -> str:
    """The path before ours that a gateway has stripped, from `x-forwarded-prefix`.

    Empty where there is none, and where it is anything but a plain path: whoever calls may send this header.
    """
    given = headers.get(b"x-forwarded-prefix", b"").decode("latin-1").removesuffix("/")
    return given if len(given) <= _LONGEST_PREFIX and _PREFIX.fullmatch(given) else ""


def _divided(status: ModelStatus) -> str | None:
    """How the calls to a bare name are divided, as far as they do not all go to the default version."""
    shares = [
        (alias, status.aliases.get(alias, status.default), percent)
        for alias, percent in sorted(status.traffic.items(), key=lambda item: -item[1])
        if percent
    ]
    if all(version == status.default for _, version, _ in shares):
        return None
    told = ", ".join(f"{percent:g} % to version {version} ({alias})" for alias, version, percent in shares)
    return f"Calls are divided: {told}."


def _operation(model: ServedModel, divided: str | None, template: Mapping[str, Any]) -> dict[str, Any]:
    """The operation of any model, narrowed to one: headers and errors stay."""
    spec = model.spec
    answers = f"{divided} Described is version {spec.version}." if divided else f"Version {spec.version} answers."
    request = {"schema": request_schema(spec), "example": example_request(model) or {"instances": []}}
    response = {"schema": response_schema(spec), "example": example_response(spec)}
    return {
        **template,
        "tags": [spec.name],
        "summary": f"Predict with {spec.name}.",
        "description": f"{answers} `POST {PREFIX}{{ref}}:predict` shows every form of the body.",
        "operationId": f"predict_{quote(spec.name, safe='')}",
        "parameters": [one for one in template["parameters"] if one["in"] != "path"],
        "requestBody": {"required": True, "content": {JSON: request}},
        "responses": {
            **template["responses"],
            "200": {"description": "The predictions.", "content": {JSON: response}},
        },
    }
