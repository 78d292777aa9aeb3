"""Results of the methods that describe or change what is served: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether requests for a version are predicted together, how that is known, and why not.

    `basis` is ``declared``, ``proven``, ``flavor``, ``unproven``, ``disproved`` or ``contradicted``.
    """

    row_wise: bool
    basis: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model version in its pool: `state` is ``cold``, ``loading``, ``ready`` or ``failed``.

    `replicas` is how many replicas have loaded it, `nbytes` its memory in each of them, `load_ms` how long a load took,
    `batching` whether its requests are predicted together, None while it is not loaded. `doing` is what a long load is
    doing, `isolation` why the version runs in a worker process, `accelerator` the faster way in which it is called;
    None where there is nothing to say.
    """

    state: str
    replicas: int
    nbytes: int = field(metadata={"key": "bytes"})
    load_ms: float
    error: str | None = None
    batching: Batching | None = None
    doing: str | None = None
    isolation: str | None = None
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The version that serves an alias, the one before, since when (ISO 8601), and the reason in a sentence."""

    version: str
    previous: str | None
    since: str
    why: str


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model.

    `default` is the version that serves the bare name and `aliases` the version that serves each alias. `desired` holds
    the aliases of the registry; they differ from `aliases` during a rollout and while a rollout is blocked. `blocked`
    has the reason per blocked alias. `live` has the history of each alias. `traffic` is percent per alias of the calls
    to the bare name, `shadow` the alias that receives copies of them. `problems` are invalid tags of the model.
    """

    name: str
    default: str | None
    aliases: Mapping[str, str]
    desired: Mapping[str, str]
    pool: str
    versions: Mapping[str, ModelVersion]
    live: Mapping[str, LiveVersion] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    shadow: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version that was loaded or unloaded; `state` is ``ready`` or ``unloaded``."""

    model: str = field(metadata={"key": "model_name"})
    version: str = field(metadata={"key": "model_version"})
    state: str


@dataclass(frozen=True, slots=True)
class AliasChange(VersionState):
    """Result of a promotion or a rollback: `alias` is served by the version, and was served by `previous` before.

    `changed` is False where the version served the alias already. `default` is the version that serves the bare name.
    """

    alias: str
    previous: str | None = field(metadata={"key": "previous_version"})
    changed: bool
    default: str | None = field(metadata={"key": "default_version"})


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic split and shadow of the calls to a model's bare name.

    `weights` is percent per alias, empty without a split; `shadow` is the alias that receives a copy of each call.
    `versions` holds the version that serves each of these aliases, None where there is none yet. `problems` are invalid
    tags of the model.
    """

    model: str = field(metadata={"key": "model_name"})
    weights: Mapping[str, float] = field(metadata={"key": "traffic"})
    shadow: str | None
    versions: Mapping[str, str | None]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor of a model: its datatype in the Open Inference Protocol, and its shape.

    -1 is any length; the first dimension is the rows.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """Input and output tensors of a model, empty where its signature does not declare them."""

    model: str = field(metadata={"key": "name"})
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """JSON Schema of the request and response bodies of a version."""

    model: str = field(metadata={"key": "model_name"})
    version: str = field(metadata={"key": "model_version"})
    request: Mapping[str, Any]
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A feature service or feature view: `kind` is ``feature_service`` or ``feature_view``.

    An entity needs every one of `join_keys`, and gets the columns in `features`.
    """

    name: str
    kind: str
    join_keys: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of a version since the gateway started.

    The model predicted `rows` in `batches` calls, which took `batch_seconds` together. The gateway answered `requests`
    in `request_seconds`; `failures` requests failed.
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
    """Health of one part of the platform: ``ok``, ``degraded`` or ``unavailable``, and its details."""

    status: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """Health of the platform: ``ok``, ``degraded`` or ``unavailable``. `ready` says whether its models are loaded."""

    status: str
    ready: bool
    parts: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class ReplicaUsage:
    """Resident memory of a replica and, where it hosts models, what they use."""

    replica: str
    deployment: str
    rss_bytes: int
    models: int | None = None
    model_bytes: int | None = None
    evictions: int | None = None
    artifact_cache: Mapping[str, float] | None = None
    """Use of the node's artifact cache by this replica since it started: ``hits``, ``downloads``, ``downloaded_bytes``,
    ``download_seconds``, ``evictions`` and ``damaged``."""


def read_statistics(body: Any) -> Statistics:
    """Read the response of ``GET /v2/models/{ref}/stats``."""
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


def read_health(body: Any) -> Health:
    """Read the response of ``GET /health``."""
    parts = {
        name: Part(part["status"], {key: value for key, value in part.items() if key != "status"})
        for name, part in body["parts"].items()
    }
    return Health(body["status"], body["ready"], parts)
