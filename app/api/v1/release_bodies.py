"""Request and response bodies of `app.api.v1.releases`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt, StrictStr

from app.api.bodies import Body


class LoadResponse(BaseModel):
    """The response of ``POST /v1/models/{ref}:load`` and ``:unload``."""

    model_name: str
    model_version: str
    state: Literal["ready", "unloaded"]


class PromoteRequest(Body):
    """The body of ``POST /v1/models/{name}:promote``: either `version` or `from`."""

    version: StrictStr | StrictInt | None = Field(None, examples=["2"])
    """Version to move the alias to."""

    source: StrictStr | None = Field(None, alias="from")
    """Another alias whose version to use, instead of `version`."""

    alias: StrictStr | None = None
    """Alias to move. Default: the default alias, which the bare name means."""

    force: StrictBool = False
    """Move the alias even if the version is incompatible with the current one, or fails its own input example."""


class RollbackRequest(Body):
    """The optional body of ``POST /v1/models/{name}:rollback``."""

    alias: StrictStr | None = None
    """Alias to move back. Default: the default alias."""


class SwitchResponse(BaseModel):
    """The response of ``:promote`` and ``:rollback``: the alias answers with this version now."""

    model_name: str
    model_version: str
    alias: str
    previous_version: str | None
    """Version that the alias answered with before."""
    changed: bool
    """False if the alias answered with this version already."""
    default_version: str | None
    """Version that the bare name means now."""
    state: Literal["ready"]


class TrafficRequest(RootModel[dict[str, float | str | None]]):
    """The body of ``PUT /v1/models/{name}/traffic``: percentage per alias, and under `shadow` an alias or null.

    An empty object removes the split and the shadow: the default version answers every request.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "type": "object",
            "properties": {
                "shadow": {"type": ["string", "null"], "description": "Alias that gets a copy of each request."}
            },
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": 100},
            "examples": [{"champion": 90, "challenger": 10, "shadow": "challenger"}],
        }
    )


class TrafficResponse(BaseModel):
    """Traffic split and shadow of a model's bare name."""

    model_name: str
    traffic: dict[str, float]
    """Percentage per alias; empty if the default version answers every request."""
    shadow: str | None
    """Alias that gets a copy of each request."""
    versions: dict[str, str | None]
    """Live version of each of these aliases. The default version takes the share of an alias without one."""
    problems: list[str]
    """Registry tags that the gateway ignores because they are wrong, one sentence each."""
