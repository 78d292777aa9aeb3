"""What is served, and who gets it: load and unload, promote, roll back and divide, under ``/v1/models``.

All of it is done by the `ModelManager`. Each of these may be repeated: done twice it is as done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.bodies import V1Error
from app.api.http.errors import v1_error
from app.api.http.exchange import Exchange, Handler, Reply, dump
from app.api.http.routing import Route
from app.api.v1.predict import PREFIX, reference
from app.api.v1.release_bodies import (
    LoadResponse,
    PromoteRequest,
    RollbackRequest,
    SwitchResponse,
    TrafficRequest,
    TrafficResponse,
)
from app.errors import Conflict, InvalidReference, MalformedBody, ModelNotFound
from app.serving.ports import ModelManager
from app.serving.references import ModelRef, ModelVersion, make_ref
from app.serving.releases.table import ModelStatus, Switch
from app.serving.releases.traffic import make_plan

SHADOW = "shadow"
"""Key of the alias that gets copies, among the aliases and their weights."""

_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A registered model.",
    "schema": {"type": "string"},
}


class ReleaseEndpoints:
    """Handlers that change what is served."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Every endpoint."""

        def route(method: str, path: str, handler: Handler, **further: Any) -> Route:
            return Route(method, PREFIX + path, handler, "v1", v1_error, V1Error, **further)

        named: dict[str, Any] = {"parameters": (_NAME,)}
        switch: dict[str, Any] = {**named, "answer": SwitchResponse, "statuses": (409,)}
        divide: dict[str, Any] = {**named, "body": TrafficRequest, "answer": TrafficResponse, "statuses": (409,)}
        return [
            route("POST", "{ref:path}:load", self.load, answer=LoadResponse),
            route("POST", "{ref:path}:unload", self.unload, answer=LoadResponse),
            route("POST", "{name:path}:promote", self.promote, body=PromoteRequest, **switch),
            route("POST", "{name:path}:rollback", self.rollback, body=RollbackRequest, body_required=False, **switch),
            route("PUT", "{name:path}/traffic", self.set_traffic, **divide),
            route("GET", "{name:path}/traffic", self.traffic, answer=TrafficResponse, **named),
        ]

    async def load(self, exchange: Exchange) -> Reply:
        """Load a version on every replica of its pool."""
        version = await exchange.in_time(self._manager.load(reference(exchange, ":load")))
        return Reply(dump({"model_name": version.name, "model_version": version.version, "state": "ready"}))

    async def unload(self, exchange: Exchange) -> Reply:
        """Unload a version."""
        version = await exchange.in_time(self._manager.unload(reference(exchange, ":unload")))
        return Reply(dump({"model_name": version.name, "model_version": version.version, "state": "unloaded"}))

    async def promote(self, exchange: Exchange) -> Reply:
        """Warm a version, then move an alias to it.

        ``POST /v1/models/{name}:promote``. The registry is told once the version is warm, and the answer comes when
        every gateway replica answers with it. Refused with 409 where callers of the version before would be refused by
        this one; the details say why.
        """
        name = _name(exchange, ":promote")
        body = PromoteRequest.read(await exchange.json())
        alias = make_ref(name, body.alias).alias
        if (body.version is None) == (body.source is None):
            raise MalformedBody("give 'version', or 'from' with another alias of the model, and not both")
        if body.source is not None:
            version = await self._answering(name, body.source)
        else:
            version = ModelVersion(name, str(make_ref(name, version=str(body.version)).version))
        switch = await exchange.in_time(self._manager.promote(version, alias=alias, force=body.force))
        return await self._switched(switch)

    async def rollback(self, exchange: Exchange) -> Reply:
        """Move an alias back to the version that it answered before.

        ``POST /v1/models/{name}:rollback``. A switch that is under way, or held up, is called off instead. After a step
        back there is nothing more to go back to: doing it again changes nothing.
        """
        name = _name(exchange, ":rollback")
        text = await exchange.body()
        body = RollbackRequest.read(exchange.parse(text) if text.strip() else {})
        alias = make_ref(name, body.alias).alias
        return await self._switched(await exchange.in_time(self._manager.rollback(name, alias=alias)))

    async def set_traffic(self, exchange: Exchange) -> Reply:
        """Divide the calls to a model's name among its aliases, and copy them to one.

        ``PUT /v1/models/{name}/traffic``. It replaces what was there; an empty object takes all of it away.
        """
        name = _name(exchange, "/traffic")
        body = await exchange.json()
        if not isinstance(body, dict):
            raise MalformedBody("the body must be a JSON object of aliases and percent")
        weights = {alias: weight for alias, weight in body.items() if alias != SHADOW}
        shadow = body.get(SHADOW)
        if not isinstance(shadow, str | None):
            raise MalformedBody("'shadow': must be an alias, or null")
        for alias in (*weights, shadow):
            make_ref(name, alias)
        plan = make_plan(weights, shadow)
        return Reply(dump(_traffic(await exchange.in_time(self._manager.set_traffic(name, plan)))))

    async def traffic(self, exchange: Exchange) -> Reply:
        """Show how the calls to a model's name are divided and copied."""
        return Reply(dump(_traffic(await self._manager.model(_name(exchange, "/traffic")))))

    async def _answering(self, name: str, alias: str) -> ModelVersion:
        """The version that an alias means, where registry and answers agree on it."""
        status = await self._manager.model(name)
        live, desired = status.aliases.get(alias), status.desired.get(alias)
        if desired is None:
            raise ModelNotFound(
                f"model '{name}' has no alias '{alias[:80]}'", {"model": name, "aliases": dict(status.desired)}
            )
        if live != desired:
            raise Conflict(
                f"'{name}@{alias}' is to mean version {desired} and does not yet: name the version",
                {"model": name, "alias": alias, "version": desired, "answering": live},
            )
        return ModelVersion(name, desired)

    async def _switched(self, switch: Switch) -> Reply:
        version = switch.version
        default = (await self._manager.model(version.name)).default
        answer = {
            "model_name": version.name,
            "model_version": version.version,
            "alias": switch.alias,
            "previous_version": switch.previous,
            "changed": switch.changed,
            "default_version": default,
            "state": "ready",
        }
        return Reply(dump(answer))


def _name(exchange: Exchange, verb: str) -> str:
    ref = reference(exchange, verb)
    if ref != ModelRef(ref.name):
        raise InvalidReference(
            f"give the model by its name, and what is to be done in the body: '{ref.name}', not '{ref}'",
            {"reference": str(ref)},
        )
    return ref.name


def _traffic(status: ModelStatus) -> Mapping[str, Any]:
    named = sorted({*status.traffic, *([status.shadow] if status.shadow is not None else [])})
    return {
        "model_name": status.name,
        "traffic": status.traffic,
        "shadow": status.shadow,
        "versions": {alias: status.aliases.get(alias) for alias in named},
        "problems": status.problems,
    }
