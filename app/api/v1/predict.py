"""Predictions, models and features under ``/v1``, a superset of KServe v1."""

from __future__ import annotations

from functools import partial

from app.api.bodies import FeatureSourceResponse, PredictRequest, PredictResponse, SchemaResponse, V1Error
from app.api.http.answers import versioned_reply
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route, parameter
from app.errors import FeatureSourceNotFound, MalformedBody
from app.serving.callers import OBSERVE, PREDICT, SCOPES
from app.serving.features import FeatureQuery
from app.serving.json_output import plain, predictions
from app.serving.ports import ModelManager
from app.serving.prediction.enrichment import FeatureRequest
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, parse_ref
from app.serving.signatures.json_schema import DIALECT, request_schema, response_schema

PREFIX = "/v1/models/"

_SOURCE = parameter("path", "source", "A feature service, or a feature view if no service has that name.")


class V1Dialect:
    """Handlers that predict and that describe models and feature sources."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    def routes(self) -> list[Route]:
        route = partial(Route, tag="v1", error=V1Error, scopes=SCOPES)
        ref, source = PREFIX + "{ref:path}", "/v1/features/{source:path}"
        return [
            route(
                "POST",
                ref + ":predict",
                self.predict,
                body=PredictRequest,
                answer=PredictResponse,
                hot=True,
                scopes=PREDICT,
            ),
            route("GET", "/v1/models", self.models),
            route("GET", "/v1/status", self.status, scopes=OBSERVE),
            route("GET", source, self.features, answer=FeatureSourceResponse, parameters=(_SOURCE,)),
            route("GET", ref + "/schema", self.schema, answer=SchemaResponse),
            route("GET", ref, self.model),
        ]

    async def predict(self, exchange: Exchange) -> Reply:
        """Predict rows, or entities of the feature store."""
        deadline = exchange.deadline
        ref = reference(exchange)
        body = PredictRequest.read(await exchange.json())
        given = [key for key in ("instances", "inputs", "entities") if getattr(body, key) is not None]
        if len(given) != 1:
            raise MalformedBody("give exactly one of 'instances', 'inputs' and 'entities'")
        for key in ("overrides", "feature_view", "feature_service"):
            if body.entities is None and getattr(body, key) is not None:
                raise MalformedBody(f"'{key}' needs 'entities'")
        request = PredictionRequest(
            ref,
            deadline,
            params=body.parameters,
            session=exchange.session,
            caller=exchange.caller.key,
            observation=exchange.observation,
        )
        if body.entities is not None:
            request.features = _features(body)
        elif body.instances is not None:
            are_objects = bool(body.instances) and isinstance(body.instances[0], dict)
            request.payload = Payload("records" if are_objects else "instances", body.instances)
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
        return versioned_reply(answer, version.version)

    async def models(self, exchange: Exchange) -> Reply:
        """List the registered models."""
        models = [model for model in await self._manager.status() if exchange.caller.may_use(model.name)]
        return Reply(dump({"models": models}))

    async def status(self, exchange: Exchange) -> Reply:
        """Show the memory and the models of every replica."""
        return Reply(dump({"replicas": list(await self._manager.usage())}))

    async def model(self, exchange: Exchange) -> Reply:
        """Show one model.

        ``ready`` says whether a call will be answered: the version is loaded, or the call loads it.
        """
        ref = reference(exchange)
        version = None if ref == ModelRef(ref.name) else await self._service.resolve(ref)
        status = await self._manager.model(ref.name if version is None else version.name)
        ready = status.can_answer(status.default if version is None else version.version)
        return Reply(dump({"name": status.name, "ready": ready, "model": status}))

    async def schema(self, exchange: Exchange) -> Reply:
        """Show JSON Schemas of a version's requests and responses.

        This loads the version if needed.
        """
        model = await exchange.in_time(self._service.model(reference(exchange)))
        answer = {
            "model_name": model.spec.name,
            "model_version": model.spec.version,
            "request": {"$schema": DIALECT, **request_schema(model.spec)},
            "response": {"$schema": DIALECT, **response_schema(model.spec)},
        }
        return versioned_reply(answer, model.spec.version)

    async def features(self, exchange: Exchange) -> Reply:
        """Show the join keys and features of a feature service or view.

        A service comes before a view of that name. Raises `FeatureSourceNotFound`.
        """
        name = exchange.path_params["source"]
        kind = "feature_service"
        try:
            source = await self._service.enrichment.source(FeatureQuery(None, name))
        except FeatureSourceNotFound:
            kind = "feature_view"
            source = await self._service.enrichment.source(FeatureQuery(name, None))
        answer = {"name": name, "kind": kind, "join_keys": source.join_keys, "features": source.features}
        return Reply(dump(answer))


def reference(exchange: Exchange) -> ModelRef:
    """Return the model reference in the path. Raises `InvalidReference`, or `Forbidden` for this caller."""
    return exchange.caller.allowed(parse_ref(exchange.path_params["ref"]))


def _features(body: PredictRequest) -> FeatureRequest:
    if (body.feature_view is None) == (body.feature_service is None):
        raise MalformedBody("'entities' needs either 'feature_service' or 'feature_view'")
    query = FeatureQuery(body.feature_view, body.feature_service)
    return FeatureRequest(query, entities=body.entities, overrides=body.overrides or {})
