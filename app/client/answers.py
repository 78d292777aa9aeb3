"""What the methods of a client return: frozen values, each with the function that reads it from JSON.

Keys that are not known here are ignored, so that a client can talk to a newer gateway. A missing one raises `KeyError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered: one prediction per row, or an object of columns where the model names several.

    `version` is the one that answered; `features` holds what was read from the feature store, by column.
    """

    predictions: Any
    model: str
    version: str
    features: Mapping[str, Sequence[Any]] | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A model version in its pool: `state` is ``cold``, ``loading``, ``ready`` or ``failed``.

    `replicas` have it loaded; it takes `nbytes` of memory in each, and took `load_ms` to load.
    """

    state: str
    replicas: int
    nbytes: int
    load_ms: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model.

    `default` is what the bare name answers and `aliases` what each alias answers. `desired` holds the aliases of the
    registry, which differ from `aliases` while a version warms up or when it failed to.
    """

    name: str
    default: str | None
    aliases: Mapping[str, str]
    desired: Mapping[str, str]
    pool: str
    versions: Mapping[str, Version]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that was loaded or let go; `state` is ``ready`` or ``unloaded``."""

    model: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the platform: ``ok``, ``degraded`` or ``unavailable``, and what else it says of itself."""

    status: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """``ok``, ``degraded`` or ``unavailable``; `ready` once everything that should be loaded is."""

    status: str
    ready: bool
    parts: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class ReplicaUsage:
    """What one replica takes: resident memory of its process and, where it hosts models, theirs."""

    replica: str
    deployment: str
    rss_bytes: int
    models: int | None = None
    model_bytes: int | None = None
    evictions: int | None = None


def prediction(body: Json, request_id: str | None) -> Prediction:
    """Read the answer to ``:predict``."""
    return Prediction(body["predictions"], body["model_name"], body["model_version"], body.get("features"), request_id)


def models(body: Json) -> list[Model]:
    """Read the answer of ``GET /v1/models``."""
    return [_model(item) for item in body["models"]]


def one_model(body: Json) -> Model:
    """Read the answer of ``GET /v1/models/{name}``."""
    return _model(body["model"])


def loaded(body: Json) -> Loaded:
    """Read the answer to ``:load`` and ``:unload``."""
    return Loaded(body["model_name"], body["model_version"], body["state"])


def health(body: Json) -> Health:
    """Read the answer of ``GET /health``."""
    parts = {
        name: Part(part["status"], {key: value for key, value in part.items() if key != "status"})
        for name, part in body["parts"].items()
    }
    return Health(body["status"], body["ready"], parts)


def replicas(body: Json) -> list[ReplicaUsage]:
    """Read the answer of ``GET /v1/status``."""
    return [
        ReplicaUsage(
            replica=item["replica"],
            deployment=item["deployment"],
            rss_bytes=item["rss_bytes"],
            models=item.get("models"),
            model_bytes=item.get("model_bytes"),
            evictions=item.get("evictions"),
        )
        for item in body["replicas"]
    ]


def _model(item: Json) -> Model:
    return Model(
        name=item["name"],
        default=item["default"],
        aliases=dict(item["aliases"]),
        desired=dict(item["desired"]),
        pool=item["pool"],
        versions={
            number: Version(facts["state"], facts["replicas"], facts["bytes"], facts["load_ms"], facts.get("error"))
            for number, facts in item["versions"].items()
        },
    )
