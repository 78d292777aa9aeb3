"""What the methods of a client return, but for predictions: frozen values, with the functions that read them from JSON.

Keys that are not known here are ignored, so that a client can talk to a newer gateway. A missing one raises `KeyError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


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
class Live:
    """The version that an alias answers, the one before, since when (ISO 8601), and why, in a sentence."""

    version: str
    previous: str | None
    since: str
    why: str


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model.

    `default` is what the bare name answers and `aliases` what each alias answers. `desired` holds the aliases of the
    registry, which differ from `aliases` while a version warms up and where it is held up; `blocked` says why, per
    alias. `live` tells since when each alias answers what it does. `traffic` is percent per alias of the calls to the
    bare name, `shadow` the alias that gets copies of them; `problems` are tags of the model that cannot be followed.
    """

    name: str
    default: str | None
    aliases: Mapping[str, str]
    desired: Mapping[str, str]
    pool: str
    versions: Mapping[str, Version]
    live: Mapping[str, Live] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    shadow: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that was loaded or let go; `state` is ``ready`` or ``unloaded``."""

    model: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class Switched(Loaded):
    """What a promotion or a rollback has come to: `alias` answers the version, and answered `previous` before.

    `changed` is False where it was so already. `default` is what the bare name answers now.
    """

    alias: str
    previous: str | None
    changed: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How the calls to a model's bare name are divided and copied.

    `weights` is percent per alias, empty where all calls go to what the bare name means; `shadow` is the alias that
    gets a copy of each call. `versions` holds what each of these aliases answers now, None where it answers nothing
    yet; `problems` are tags of the model that cannot be followed.
    """

    model: str
    weights: Mapping[str, float]
    shadow: str | None
    versions: Mapping[str, str | None]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One tensor of a model: its datatype in the Open Inference Protocol, and its shape.

    -1 is any length; the first dimension is the rows.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives; `inputs` and `outputs` are empty where its signature does not say."""

    model: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """JSON Schema of the bodies that a version takes and answers."""

    model: str
    version: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A feature service or feature view: `kind` says which.

    Entities have every one of `join_keys`, and get the columns in `features`.
    """

    name: str
    kind: str
    join_keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was counted for a version since the gateway started.

    `rows` were predicted in `batches` calls of the model, which took `batch_seconds` together; `requests` were answered
    in `request_seconds`, and `failures` were not.
    """

    model: str
    version: str
    rows: int
    batches: int
    requests: int
    failures: int
    batch_seconds: float
    request_seconds: float


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
    artifact_cache: Mapping[str, float] | None = None
    """What it has done with the node's cache of artifacts since it started: ``hits``, ``downloads``,
    ``downloaded_bytes``, ``download_seconds``, ``evictions`` and ``damaged``."""


def models(body: Json) -> list[Model]:
    """Read the answer of ``GET /v1/models``."""
    return [_model(item) for item in body["models"]]


def one_model(body: Json) -> Model:
    """Read the answer of ``GET /v1/models/{name}``."""
    return _model(body["model"])


def loaded(body: Json) -> Loaded:
    """Read the answer to ``:load`` and ``:unload``."""
    return Loaded(body["model_name"], body["model_version"], body["state"])


def switched(body: Json) -> Switched:
    """Read the answer to ``:promote`` and ``:rollback``."""
    return Switched(
        model=body["model_name"],
        version=body["model_version"],
        state=body["state"],
        alias=body["alias"],
        previous=body["previous_version"],
        changed=body["changed"],
        default=body["default_version"],
    )


def traffic(body: Json) -> Traffic:
    """Read the answer of ``GET`` and ``PUT /v1/models/{name}/traffic``."""
    return Traffic(
        model=body["model_name"],
        weights=dict(body["traffic"]),
        shadow=body["shadow"],
        versions=dict(body["versions"]),
        problems=tuple(body["problems"]),
    )


def metadata(body: Json) -> ModelMetadata:
    """Read the answer of ``GET /v2/models/{ref}``."""
    return ModelMetadata(
        model=body["name"],
        versions=tuple(body["versions"]),
        platform=body["platform"],
        inputs=tuple(map(_tensor, body["inputs"])),
        outputs=tuple(map(_tensor, body["outputs"])),
    )


def schema(body: Json) -> Schema:
    """Read the answer of ``GET /v1/models/{ref}/schema``."""
    return Schema(body["model_name"], body["model_version"], body["request"], body["response"])


def features(body: Json) -> FeatureSource:
    """Read the answer of ``GET /v1/features/{name}``."""
    return FeatureSource(body["name"], body["kind"], tuple(body["join_keys"]), tuple(body["features"]))


def statistics(body: Json) -> Statistics:
    """Read the answer of ``GET /v2/models/{ref}/stats``."""
    (counted,) = body["model_stats"]
    inference = counted["inference_stats"]
    return Statistics(
        model=counted["name"],
        version=counted["version"],
        rows=counted["inference_count"],
        batches=counted["execution_count"],
        requests=inference["success"]["count"],
        failures=inference["fail"]["count"],
        batch_seconds=inference["compute_infer"]["ns"] / 1e9,
        request_seconds=inference["success"]["ns"] / 1e9,
    )


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
            artifact_cache=item.get("artifact_cache"),
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
        live={
            alias: Live(one["version"], one["previous"], one["since"], one["why"])
            for alias, one in item.get("live", {}).items()
        },
        blocked=dict(item.get("blocked", {})),
        traffic=dict(item.get("traffic", {})),
        shadow=item.get("shadow"),
        problems=tuple(item.get("problems", ())),
    )


def _tensor(item: Json) -> TensorMetadata:
    return TensorMetadata(item["name"], item["datatype"], tuple(item["shape"]))
