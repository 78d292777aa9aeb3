"""Our own dialect, a superset of KServe v1: ``/v1/models/{ref}:predict`` and what belongs to it."""

from __future__ import annotations

from typing import Any

from app.api.bodies import (
    FeatureSourceResponse,
    PredictRequest,
    PredictResponse,
    SchemaResponse,
    V1Error,
)
from app.api.http.errors import v1_error
from app.api.http.exchange import Exchange, Handler, Reply, dump
from app.api.http.routing import Route
from app.errors import FeatureSourceNotFound, MalformedBody, NotFound
from app.serving.features import FeatureQuery
from app.serving.json_output import plain, predictions
from app.serving.ports import ModelManager
from app.serving.prediction.enrichment import FeatureRequest
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, parse_ref
from app.serving.signatures.json_schema import DIALECT, request_schema, response_schema

PREFIX = "/v1/models/"
FEATURES = "/v1/features/"

_SOURCE = {
    "name": "source",
    "in": "path",
    "required": True,
    "description": "A feature service, or a feature view where there is no service of that name.",
    "schema": {"type": "string"},
}


class V1Dialect:
    """Handlers of ``/v1``."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    def routes(self) -> list[Route]:
        """Every endpoint of the dialect."""

        def route(method: str, path: str, handler: Handler, **further: Any) -> Route:
            return Route(method, path, handler, "v1", v1_error, V1Error, **further)

        ref = PREFIX + "{ref:path}"
        return [
            route("POST", ref + ":predict", self.predict, body=PredictRequest, answer=PredictResponse, hot=True),
            route("GET", "/v1/models", self.models),
            route("GET", "/v1/status", self.status),
            route(
                "GET", FEATURES + "{source:path}", self.features, answer=FeatureSourceResponse, parameters=(_SOURCE,)
            ),
            route("GET", ref + "/schema", self.schema, answer=SchemaResponse),
            route("GET", ref, self.model),
        ]

    async def predict(self, exchange: Exchange) -> Reply:
        """Predict rows, or entities of the feature store.

        ``POST /v1/models/{ref}:predict``. Raises `ServingError`.
        """
        deadline = exchange.deadline
        ref = reference(exchange, ":predict")
        body = PredictRequest.read(await exchange.json())
        given = [key for key in ("instances", "inputs", "entities") if getattr(body, key) is not None]
        if len(given) != 1:
            raise MalformedBody("give exactly one of 'instances', 'inputs' and 'entities'")
        for key in ("overrides", "feature_view", "feature_service"):
            if body.entities is None and getattr(body, key) is not None:
                raise MalformedBody(f"'{key}' goes with 'entities'")
        request = PredictionRequest(ref, deadline, params=body.parameters, session=exchange.session)
        if body.entities is not None:
            request.features = _features(body)
        elif body.instances is not None:
            request.payload = Payload("instances", body.instances)
        else:
            request.payload = Payload("inputs", body.inputs)
        prediction = await self._service.predict(request)
        version = prediction.version
        answer = {
            "predictions": predictions(prediction.output),
            "model_name": version.name,
            "model_version": version.version,
        }
        if prediction.features is not None:
            answer["features"] = plain(prediction.features)
        return Reply(dump(answer), headers=((b"x-model-version", version.version.encode()),))

    async def models(self, exchange: Exchange) -> Reply:
        """List registered models."""
        return Reply(dump({"models": list(await self._manager.status())}))

    async def status(self, exchange: Exchange) -> Reply:
        """Show every replica's memory and models."""
        return Reply(dump({"replicas": list(await self._manager.usage())}))

    async def model(self, exchange: Exchange) -> Reply:
        """Show one model.

        ``GET /v1/models/{name}``; ``ready`` says whether what its name means is loaded.
        """
        ref = reference(exchange, "")
        status = await self._manager.model(ref.name)
        bare = ref.alias is None and ref.version is None
        version = status.default if bare else (await self._service.resolve(ref)).version
        facts = status.versions.get(version or "")
        ready = facts is not None and facts["state"] == "ready"
        return Reply(dump({"name": status.name, "ready": ready, "model": status}))

    async def schema(self, exchange: Exchange) -> Reply:
        """Show what a version takes and answers, as JSON Schema.

        ``GET /v1/models/{ref}/schema``; the version is loaded where it is not.
        """
        model = await exchange.in_time(self._service.model(reference(exchange, "/schema")))
        answer = {
            "model_name": model.spec.name,
            "model_version": model.spec.version,
            "request": {"$schema": DIALECT, **request_schema(model.spec)},
            "response": {"$schema": DIALECT, **response_schema(model.spec)},
        }
        return Reply(dump(answer), headers=((b"x-model-version", model.spec.version.encode()),))

    async def features(self, exchange: Exchange) -> Reply:
        """Show what a feature service, or else a feature view of that name, needs and gives.

        ``GET /v1/features/{name}``. Raises `FeatureSourceNotFound`.
        """
        name = exchange.scope["path"][len(FEATURES) :]
        kind = "feature_service"
        try:
            source = await self._service.feature_source(FeatureQuery(None, name))
        except FeatureSourceNotFound:
            kind = "feature_view"
            source = await self._service.feature_source(FeatureQuery(name, None))
        answer = {"name": name, "kind": kind, "join_keys": source.join_keys, "features": source.features}
        return Reply(dump(answer))


def reference(exchange: Exchange, verb: str) -> ModelRef:
    """The model reference between the prefix and the verb of the path."""
    path: str = exchange.scope["path"]
    if not path.startswith(PREFIX) or not path.endswith(verb):
        raise NotFound(f"there is nothing at {path[:120]}")
    return parse_ref(path[len(PREFIX) : len(path) - len(verb)])


def _features(body: PredictRequest) -> FeatureRequest:
    if (body.feature_view is None) == (body.feature_service is None):
        raise MalformedBody("give 'feature_service' or 'feature_view', and not both, with 'entities'")
    query = FeatureQuery(body.feature_view, body.feature_service)
    return FeatureRequest(query, entities=body.entities, overrides=body.overrides or {})
