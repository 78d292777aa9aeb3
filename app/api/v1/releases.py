"""Load, unload, promote, roll back and split traffic under ``/v1/models``.

The `ModelManager` does the work. Every operation is idempotent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from app.api.bodies import V1Error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route, parameter
from app.api.v1 import release_bodies as bodies
from app.api.v1.predict import PREFIX, reference
from app.errors import Conflict, InvalidReference, MalformedBody, ModelNotFound
from app.serving.callers import MANAGE, OBSERVE
from app.serving.ports import ModelManager
from app.serving.references import ModelRef, ModelVersion, make_ref, parse_ref
from app.serving.releases.table import ModelStatus, Switch
from app.serving.releases.traffic import make_plan

SHADOW = "shadow"
"""Key of the shadow alias among the aliases and their weights."""

NAME = parameter("path", "name", "A registered model.")


class ReleaseEndpoints:
    """Handlers that change which versions answer."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        route = partial(Route, tag="v1", error=V1Error, scopes=MANAGE)
        named = partial(route, parameters=(NAME,))
        switch = partial(named, answer=bodies.SwitchResponse, statuses=(409,))
        split = partial(named, answer=bodies.TrafficResponse)
        ref, name = PREFIX + "{ref:path}", PREFIX + "{name:path}"
        return [
            route("POST", ref + ":load", self.load, answer=bodies.LoadResponse),
            route("POST", ref + ":unload", self.unload, answer=bodies.LoadResponse),
            switch("POST", name + ":promote", self.promote, body=bodies.PromoteRequest),
            switch("POST", name + ":rollback", self.rollback, body=bodies.RollbackRequest, body_required=False),
            split("PUT", name + "/traffic", self.set_traffic, body=bodies.TrafficRequest, statuses=(409,)),
            split("GET", name + "/traffic", self.traffic, scopes=OBSERVE),
        ]

    async def load(self, exchange: Exchange) -> Reply:
        """Load a version on every replica of its pool."""
        version = await exchange.in_time(self._manager.load(reference(exchange)))
        return Reply(dump({"model_name": version.name, "model_version": version.version, "state": "ready"}))

    async def unload(self, exchange: Exchange) -> Reply:
        """Unload a version from every replica of its pool."""
        version = await exchange.in_time(self._manager.unload(reference(exchange)))
        return Reply(dump({"model_name": version.name, "model_version": version.version, "state": "unloaded"}))

    async def promote(self, exchange: Exchange) -> Reply:
        """Warm a version, then move an alias to it.

        ``POST /v1/models/{name}:promote`` moves the alias in the registry once the version is warm, and responds once
        every gateway replica answers with it. Raises `Conflict` if the version rejects requests that the alias's
        current version accepts; the details say why.
        """
        name = _name(exchange)
        body = bodies.PromoteRequest.read(await exchange.json())
        alias = make_ref(name, body.alias).alias
        if (body.version is None) == (body.source is None):
            raise MalformedBody("give either 'version', or 'from' with another alias of the model")
        if body.source is not None:
            version = await self._live_version(name, body.source)
        else:
            version = ModelVersion(name, str(make_ref(name, version=str(body.version)).version))
        exchange.note(version=version.version, alias=alias, force=body.force)
        switch = await exchange.in_time(self._manager.promote(version, alias=alias, force=body.force))
        return await self._switched(switch)

    async def rollback(self, exchange: Exchange) -> Reply:
        """Move an alias back to its previous version.

        ``POST /v1/models/{name}:rollback`` cancels a rollout that is warming or blocked instead. A second rollback
        changes nothing, because the alias has no earlier version then.
        """
        name = _name(exchange)
        body = bodies.RollbackRequest.read(await exchange.json(optional=True))
        alias = make_ref(name, body.alias).alias
        switch = await exchange.in_time(self._manager.rollback(name, alias=alias))
        exchange.note(version=switch.version.version, alias=switch.alias)
        return await self._switched(switch)

    async def set_traffic(self, exchange: Exchange) -> Reply:
        """Split a model's traffic among its aliases, and shadow it to one.

        ``PUT /v1/models/{name}/traffic`` replaces the whole split; an empty object removes it.
        """
        name = _name(exchange)
        body = await exchange.json()
        if not isinstance(body, dict):
            raise MalformedBody("the body must be a JSON object of aliases and percentages")
        weights = {alias: weight for alias, weight in body.items() if alias != SHADOW}
        shadow = body.get(SHADOW)
        if not isinstance(shadow, str | None):
            raise MalformedBody("'shadow': must be an alias or null")
        for alias in (*weights, shadow):
            make_ref(name, alias)
        plan = make_plan(weights, shadow)
        exchange.note(traffic=body)
        return Reply(dump(_traffic(await exchange.in_time(self._manager.set_traffic(name, plan)))))

    async def traffic(self, exchange: Exchange) -> Reply:
        """Show a model's traffic split and shadow."""
        return Reply(dump(_traffic(await self._manager.model(_name(exchange)))))

    async def _live_version(self, name: str, alias: str) -> ModelVersion:
        """Return the live version of an alias. Raises `Conflict` while another one is desired."""
        status = await self._manager.model(name)
        live, desired = status.aliases.get(alias), status.desired.get(alias)
        if desired is None:
            raise ModelNotFound(
                f"model '{name}' has no alias '{alias[:80]}'", {"model": name, "aliases": dict(status.desired)}
            )
        if live != desired:
            raise Conflict(
                f"'{name}@{alias}' does not answer with version {desired} yet; give 'version' instead of 'from'",
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


def _name(exchange: Exchange) -> str:
    ref = parse_ref(exchange.path_params["name"])
    if ref != ModelRef(ref.name):
        raise InvalidReference(
            f"'{ref}' is not a bare model name; use '{ref.name}' in the path and give version or alias in the body",
            {"reference": str(ref)},
        )
    return exchange.caller.allowed(ref).name


def _traffic(status: ModelStatus) -> Mapping[str, Any]:
    named = sorted({*status.traffic, *([status.shadow] if status.shadow is not None else [])})
    return {
        "model_name": status.name,
        "traffic": status.traffic,
        "shadow": status.shadow,
        "versions": {alias: status.aliases.get(alias) for alias in named},
        "problems": status.problems,
    }
