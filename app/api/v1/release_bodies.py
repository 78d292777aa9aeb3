"""Request and answer bodies of `app.api.v1.releases`: load, promote, roll back, divide."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt, StrictStr

from app.api.bodies import Body


class LoadResponse(BaseModel):
    """The answer of ``POST /v1/models/{ref}:load`` and ``:unload``."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    state: Literal["ready", "unloaded"]


class PromoteRequest(Body):
    """The body of ``POST /v1/models/{name}:promote``: `version`, or `from`."""

    version: StrictStr | StrictInt | None = Field(None, examples=["2"])
    """Version that the alias shall mean."""

    source: StrictStr | None = Field(None, alias="from")
    """Instead of a version: another alias, whose version it shall be."""

    alias: StrictStr | None = None
    """Alias that is moved; unset: the default one, which is what the bare name means."""

    force: StrictBool = False
    """Move it although the version takes other inputs than the one before, or fails its own example."""


class RollbackRequest(Body):
    """The body of ``POST /v1/models/{name}:rollback``; it may be left out."""

    alias: StrictStr | None = None
    """Alias that is moved back; unset: the default one."""


class SwitchResponse(BaseModel):
    """The answer of ``:promote`` and ``:rollback``: the alias answers this version now."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    alias: str
    previous_version: str | None
    """What the alias answered before."""
    changed: bool
    """False where it was so already."""
    default_version: str | None
    """What the bare name answers now."""
    state: Literal["ready"]


class TrafficRequest(RootModel[dict[str, float | str | None]]):
    """The body of ``PUT /v1/models/{name}/traffic``: percent per alias, and under `shadow` an alias or null.

    An empty object sends every call to what the bare name means, and copies none.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "type": "object",
            "properties": {
                "shadow": {"type": ["string", "null"], "description": "Alias that gets a copy of each call."}
            },
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": 100},
            "examples": [{"champion": 90, "challenger": 10, "shadow": "challenger"}],
        }
    )


class TrafficResponse(BaseModel):
    """How the calls to a model's bare name are divided and copied."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    traffic: dict[str, float]
    """Percent per alias; empty where all calls go to what the bare name means."""
    shadow: str | None
    """Alias that gets a copy of each call."""
    versions: dict[str, str | None]
    """What each of these aliases answers now. An alias that answers nothing yet leaves its share to the bare name."""
    problems: list[str]
    """Tags that cannot be followed and are ignored, a sentence each."""
