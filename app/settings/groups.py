"""Groups of settings: scaling, pools, batching, limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Scaling(_Group):
    """How many replicas a deployment has, how fast that changes, and what each of them reserves."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """Fewest replicas; unset: 1 on one machine, 2 on a cluster. Pools may have 0: see `docs/serve/placement.md`."""

    max_replicas: PositiveInt | None = None
    """Most replicas; unset: 2 on one machine, 10 on a cluster."""

    upscale_delay_s: Annotated[float, Field(ge=0)] = 30
    """Seconds for which more replicas must be wanted before they are started. A peak shorter than a start is not worth
    one."""

    downscale_delay_s: Annotated[float, Field(ge=0)] = 300
    """Seconds for which fewer replicas must be wanted before some are stopped. Longer than the pauses of usual load, or
    each peak pays for starts."""

    look_back_s: Annotated[float, Field(gt=0)] = 15
    """Seconds over which load is averaged; it is measured and reported five times in them."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.25
    """CPU cores that Ray reserves for a replica when it places it; not a limit on what it uses."""

    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs, or a fraction of one, that Ray reserves for a replica."""

    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory that Ray reserves for a replica when it places it; 0 reserves none."""


class RequestScaling(Scaling):
    """A deployment that is scaled on its calls in progress."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 5
    """Calls in progress per replica that autoscaling aims at."""


class GatewayScaling(RequestScaling):
    """The gateway's replicas: HTTP, validation and batching."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 64
    """HTTP requests in progress per gateway replica that autoscaling aims at."""


class PoolSettings(Scaling):
    """One model pool: a group of replicas that host model versions. It is scaled on rows, waits and busy threads."""

    placement: Literal["deployment", "gateway"] = "deployment"
    """Where the models live: in replicas of the pool's own, or inside each gateway replica. In the gateway a call saves
    the way to another process, and what scales, restarts or kills the gateway does so to the models: for small models
    whose callers count milliseconds. Replica counts and targets of such a pool are the gateway's; what it reserves is
    added to the gateway's."""

    target_rows: Annotated[float, Field(gt=0)] = 1024
    """Rows per replica, waiting in the gateways or being predicted, that autoscaling aims at."""

    target_busy: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of a replica's prediction threads that autoscaling aims to have busy, and that one version may keep busy on
    each replica that holds it before one more shall hold it."""

    target_wait_ms: Annotated[float, Field(gt=0)] = 250
    """Milliseconds that the oldest row may wait in a gateway; longer waits ask for one replica more."""

    downscale_to_zero_delay_s: Annotated[float, Field(ge=0)] = 600
    """Seconds without a call after which the last replica is stopped, where `min_replicas` is 0."""

    copies: PositiveInt = 2
    """Fewest replicas that hold a version which should be resident; each version has its own share of the replicas."""

    model_bytes: PositiveInt = 4 * 1024**3
    """Memory that the resident models of one replica may take together; the least recently used leave first."""

    predict_threads: PositiveInt = 2
    """Predictions that one replica computes at the same time, each in its own thread."""

    load_threads: PositiveInt = 2
    """Models that one replica loads at the same time. Each load takes processor time from the predictions beside it."""


class BatchSettings(_Group):
    """How rows of concurrent requests for one model version become one call."""

    max_rows: PositiveInt = 1024
    """Most rows in one batch. A larger request is sent in pieces, where its model answers row by row. 1: every request
    is a call of its own, whole. A model's registry tag `serving.batch.max_rows` goes before it."""

    max_bytes: PositiveInt = 8 * 1024**2
    """Most bytes in one batch, estimated from its values."""

    max_in_flight: PositiveInt = 16
    """Most batches of one model version that a gateway replica has under way at once. It starts at 2 and moves to what
    the pool computes at a time. A model's registry tag `serving.batch.max_in_flight` goes before it."""

    wait_ms: Annotated[float, Field(ge=0)] = 0
    """Milliseconds that a batch waits for more rows. 0: an idle model answers at once, a busy one fills its batches. A
    model's registry tag `serving.batch.wait_ms` goes before it."""


class Limits(_Group):
    """Bounds on one request and on what may wait."""

    body_bytes: PositiveInt = 64 * 1024**2
    """Largest request body in bytes, after decompression; larger ones are answered 413."""

    grpc_message_bytes: Annotated[int, Field(ge=1, lt=2**31)] = 64 * 1024**2
    """Largest gRPC message in bytes, received or sent; larger ones are answered RESOURCE_EXHAUSTED. On a cluster that
    `up` does not start, Ray's own `RAY_SERVE_GRPC_MAX_MESSAGE_SIZE` has to be set beside it."""

    rows: PositiveInt = 100_000
    """Most rows in one request."""

    columns: PositiveInt = 10_000
    """Most columns in one row."""

    json_depth: PositiveInt = 32
    """Deepest nesting of a JSON body."""

    queued_requests: PositiveInt = 4096
    """Requests in progress in one gateway replica, all models together; more are answered 429."""

    queued_requests_per_model: PositiveInt = 2048
    """Requests in progress for one model version in one gateway replica."""

    queued_rows: PositiveInt = 1_000_000
    """Rows in progress in one gateway replica."""

    queued_bytes: PositiveInt = 512 * 1024**2
    """Bytes of input in progress in one gateway replica."""


class ShadowSettings(_Group):
    """Copies of calls that go to a model's shadow version, as its registry tag `serving.shadow` asks for."""

    max_requests: Annotated[int, Field(ge=0)] = 64
    """Most copies under way in one gateway replica, all models together; further ones are dropped, and counted. 0: none
    are sent."""

    max_rows: PositiveInt = 8192
    """Most rows in the copies under way in one gateway replica; a call with more of them is never copied."""

    max_bytes: PositiveInt = 64 * 1024**2
    """Most bytes of input and output in the copies under way in one gateway replica; a call with more of them is never
    copied. What is sent as JSON takes several times as much memory as it has bytes as arrays, which are counted."""

    timeout_s: Annotated[float, Field(gt=0)] = 10
    """Seconds that a copy may take, whatever deadline its caller had."""
