"""The ``/serve`` dialect: ``POST /serve``, which a gateway that strips its path prefix sends as ``POST /``."""

from __future__ import annotations

from functools import partial
from typing import Any

from app.api.bodies import ManageResponse, ServeError, ServeRequest, ServeResponse
from app.api.http.access import Access
from app.api.http.answers import versioned_reply
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route
from app.errors import MalformedBody
from app.serving.callers import OBSERVE, PREDICT, SCOPES
from app.serving.features import FeatureQuery
from app.serving.json_output import predictions
from app.serving.ports import ModelManager
from app.serving.prediction.enrichment import FeatureRequest
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, make_ref, parse_ref


class ServeDialect:
    """Handlers of ``POST /serve``."""

    def __init__(self, service: PredictionService, manager: ModelManager, access: Access) -> None:
        self._service = service
        self._manager = manager
        self._access = access

    def routes(self) -> list[Route]:
        answer = ServeResponse | ManageResponse
        route = partial(Route, tag="serve", error=ServeError, body=ServeRequest, answer=answer, hot=True)
        route = partial(route, scopes=SCOPES, statuses=(403,))
        return [route("POST", "/serve", self.serve), route("POST", "/", self.serve, documented=False)]

    async def serve(self, exchange: Exchange) -> Reply:
        """Predict with, load, unload or show a model."""
        deadline = exchange.deadline
        body = ServeRequest.read(await exchange.json())
        _check_keys(body)
        ref = exchange.caller.allowed(_ref(body))
        if body.action != "predict":
            exchange.observation = None  # no prediction
        if body.action == "status":
            exchange.caller.require(OBSERVE)
            status = await self._manager.model(ref.name)
            shown = {"status": "success", "action": body.action, "model_name": ref.name, "model": status}
            return Reply(dump({**shown, "request_id": exchange.request_id}))
        if body.action != "predict":
            exchange.audit = {"action": f"serve_{body.action}", "model": str(ref)}
            self._access.check_management(exchange)
            return await self._manage(body, ref, exchange)
        exchange.caller.require(PREDICT)
        request = PredictionRequest(
            ref,
            deadline,
            params=body.params,
            session=exchange.session,
            caller=exchange.caller.key,
            observation=exchange.observation,
        )
        if body.use_feature_store:
            request.features = _features(body)
        else:
            request.payload = _payload(body)
        prediction = await self._service.predict(request)
        version = prediction.version
        answer = {
            "prediction": predictions(prediction.output),
            "status": "success",
            "model_name": version.name,
            "model_version": version.version,
            "request_id": exchange.request_id,
        }
        return versioned_reply(answer, version.version)

    async def _manage(self, body: ServeRequest, ref: ModelRef, exchange: Exchange) -> Reply:
        answer: dict[str, Any] = {"status": "success", "action": body.action, "model_name": ref.name}
        if body.action == "load":
            version = await exchange.in_time(self._manager.load(ref))
            if body.promote:
                await exchange.in_time(self._manager.promote(version))
            answer["model_version"] = version.version
            exchange.note(version=version.version, promote=body.promote)
            answer["default_version"] = (await self._manager.model(ref.name)).default
        else:
            answer["model_version"] = (await exchange.in_time(self._manager.unload(ref))).version
        answer["request_id"] = exchange.request_id
        return Reply(dump(answer))


def _check_keys(body: ServeRequest) -> None:
    if body.promote and body.action != "load":
        raise MalformedBody("'promote' needs 'action': 'load'")
    if body.action == "predict":
        return
    if body.use_feature_store:
        raise MalformedBody(f"'use_feature_store' is not allowed with 'action': '{body.action}'; remove it")
    for key in ("data", "params", "entity_id", "entities", "feature_view", "feature_service"):
        if getattr(body, key) is not None:
            raise MalformedBody(f"'{key}' is not allowed with 'action': '{body.action}'; remove it")


def _ref(body: ServeRequest) -> ModelRef:
    if body.model_version is None and body.alias is None:
        return parse_ref(body.model_name)
    return make_ref(body.model_name, body.alias, None if body.model_version is None else str(body.model_version))


def _payload(body: ServeRequest) -> Payload:
    for key in ("entity_id", "entities", "feature_view", "feature_service"):
        if getattr(body, key) is not None:
            raise MalformedBody(f"'{key}' needs 'use_feature_store': true")
    if body.data is None:
        raise MalformedBody("'data' is missing; send one row as an object of columns, or a list of rows")
    if isinstance(body.data, dict):
        return Payload("records", [body.data])
    return Payload("records" if body.data and isinstance(body.data[0], dict) else "instances", body.data)


def _features(body: ServeRequest) -> FeatureRequest:
    if (body.feature_view is None) == (body.feature_service is None):
        raise MalformedBody("'use_feature_store' needs either 'feature_view' or 'feature_service'")
    if (body.entity_id is None) == (body.entities is None):
        raise MalformedBody("'use_feature_store' needs either 'entity_id' or 'entities'")
    overrides = body.data or {}
    if not isinstance(overrides, dict):
        raise MalformedBody("with 'use_feature_store', 'data' must be an object of columns that override the store's")
    ids = body.entity_id if isinstance(body.entity_id, list) or body.entity_id is None else [body.entity_id]
    return FeatureRequest(FeatureQuery(body.feature_view, body.feature_service), ids, body.entities, overrides)
