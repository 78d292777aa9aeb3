"""Groups of settings: scaling, pools, batching, environments, access."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

PositiveInt = Annotated[int, Field(ge=1)]


PREFIX = "ML_SERVE_"

ScopeName = Literal["predict", "manage", "observe"]
"""``predict``: call models and read what a call needs. ``manage``: load, unload, promote, roll back, split traffic.
``observe``: read metrics, states and statistics."""


def ecosystem(name: str, own: str | None = None) -> Any:
    """Let a field be read from the ecosystem's variable `name` too; our own name wins."""
    return AliasChoices(f"{PREFIX}{own or name}", name)


def comma_separated(value: Any) -> Any:
    """Split text at commas; other values stay."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def absolute(value: Path | None) -> Path | None:
    """Make a path absolute: replicas run in other working directories, where a relative one would mean another."""
    return value and value.expanduser().absolute()


class Group(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Scaling(Group):
    """Replica counts of a deployment, how fast they change, and what each replica reserves."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """Minimum number of replicas. Unset: 1 on one machine, 2 on a cluster. 0 is for pools:
    see `docs/serve/placement.md`."""

    max_replicas: PositiveInt | None = None
    """Maximum number of replicas. Unset: 2 on one machine, 10 on a cluster."""

    upscale_delay_s: Annotated[float, Field(ge=0)] = 30
    """Autoscaling adds replicas after it has wanted more for this many seconds. A peak that is shorter than a replica's
    start does not justify one."""

    downscale_delay_s: Annotated[float, Field(ge=0)] = 300
    """Autoscaling removes replicas after it has wanted fewer for this many seconds. Choose it longer than the usual
    pauses of the load; otherwise each peak waits for new replicas."""

    look_back_s: Annotated[float, Field(gt=0)] = 15
    """Autoscaling averages the load over this many seconds, from five measurements."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.25
    """CPU cores that Ray reserves when it places a replica. Not a limit on use."""

    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs, or a fraction of one, that Ray reserves for a replica."""

    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes of memory that Ray reserves when it places a replica. 0: none."""


class RequestScaling(Scaling):
    """Scaling of a deployment by its calls in progress."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 5
    """Target of autoscaling: calls in progress per replica."""


class GatewayScaling(RequestScaling):
    """Scaling of the gateway: HTTP, validation and batching."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 64
    """Target of autoscaling: HTTP requests in progress per gateway replica."""


class PoolSettings(Scaling):
    """One model pool: replicas that host model versions. Autoscaling uses rows, waits and busy threads."""

    placement: Literal["deployment", "gateway"] = "deployment"
    """Where the models run. `deployment`: in replicas of the pool. `gateway`: inside each gateway replica, for small
    models whose callers count milliseconds. In the gateway a prediction needs no call to another process, but the
    models scale, restart and crash with the gateway. The gateway's replica counts and targets apply to such a pool; its
    reservations are added to those of the gateway."""

    target_rows: Annotated[float, Field(gt=0)] = 1024
    """Target of autoscaling: rows per replica that wait in the gateways or are being predicted."""

    target_busy: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Target of autoscaling: busy share of a replica's prediction threads. A version that keeps a larger share busy on
    its replicas is loaded on one more replica."""

    target_wait_ms: Annotated[float, Field(gt=0)] = 250
    """Autoscaling adds a replica when the oldest row in a gateway waits longer than this many milliseconds."""

    downscale_to_zero_delay_s: Annotated[float, Field(ge=0)] = 600
    """With `min_replicas` 0: seconds without a call after which the last replica stops."""

    copies: PositiveInt = 2
    """Minimum number of replicas that hold a resident version. Different versions may be on different replicas."""

    model_bytes: PositiveInt = 4 * 1024**3
    """Maximum bytes of the resident models of one replica. The replica evicts rarely called models first."""

    process_bytes: Annotated[int, Field(ge=0)] = 0
    """Maximum bytes of memory of each process that runs models, replica or worker. What a model asks for beyond it
    fails with a `MemoryError`, its own error. A process that stays full is replaced. 0: half the memory of the machine
    or container."""

    predict_threads: PositiveInt = 2
    """Predictions that one replica computes at the same time, each in a thread of its own. After a second, a prediction
    no longer counts for other model versions, so that a version whose predictions hang does not stop them."""

    stream_threads: PositiveInt = 16
    """Calls with a JSON body, of chat models and agents, and streams that one replica runs at the same time. Each has a
    thread of its own and takes no prediction thread. Further streams are answered with 429; other calls wait."""

    load_threads: PositiveInt = 2
    """Models that one replica loads at the same time. Each load takes CPU time from running predictions. After a
    second, a load no longer counts."""


class BatchSettings(Group):
    """Batching: rows of concurrent requests for one model version become one call."""

    max_rows: PositiveInt = 1024
    """Maximum rows in one batch. A larger request is split. 1: no batching and no splitting. Only row-wise models
    are batched and split. A model's registry tag `serving.batch.max_rows` overrides it."""

    max_bytes: PositiveInt = 8 * 1024**2
    """Maximum bytes in one batch, estimated from its values."""

    max_in_flight: PositiveInt = 16
    """Maximum batches of one model version in flight per gateway replica. The gateway starts with 2 and adapts to what
    the pool computes at the same time. A model's registry tag `serving.batch.max_in_flight` overrides it."""

    wait_ms: Annotated[float, Field(ge=0)] = 0
    """Milliseconds that a batch waits for more rows. 0: an idle model answers at once, and a busy model still gets full
    batches. A model's registry tag `serving.batch.wait_ms` overrides it."""


class EnvironmentSettings(Group):
    """Processes and libraries of versions that cannot share a pool replica's own process."""

    mismatch: Literal["isolate", "warn", "refuse"] = "isolate"
    """What happens to a version whose requirements contradict the installed libraries. `isolate`: it runs in a worker
    process with its own libraries. `warn`: it runs with the installed ones. `refuse`: it is not loaded."""

    build: Literal["allow", "never"] = "allow"
    """Whether the libraries of such a version may be installed when it is loaded. `never`: only environments that are
    already in the artifact cache are used."""

    index_url: str | None = None
    """Package index for these libraries. Unset: uv's own variables, else PyPI."""

    build_timeout_s: Annotated[float, Field(gt=0)] = 600
    """Maximum seconds to install the libraries of one version."""

    isolate: Literal["needed", "python", "all"] = "needed"
    """Which versions run in worker processes. `needed`: those that ship code, contradict the installed libraries, or
    change the state of the process when they are loaded. `python`: these, and each version of Python code in a process
    of its own. `all`: each version in a process of its own."""

    code: Literal["allow", "refuse"] = "allow"
    """Whether a version may run code of its author when it is loaded: pickles and Python files. `refuse`: only formats
    that are data are loaded, such as those of ONNX, XGBoost and LightGBM."""

    variables: Annotated[tuple[str, ...], NoDecode] = ()
    """Environment variables that worker processes keep although their names look like secrets."""

    max_workers: PositiveInt = 8
    """Maximum worker processes of one pool replica. The replica evicts rarely called models first."""

    @field_validator("variables", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return comma_separated(value)


class AuthSettings(Group):
    """Who may call the gateway. See `docs/operate/security.md`."""

    mode: Literal["none", "api-key", "jwt", "proxy"] = "none"
    """How callers are known. `none`: everybody may do everything. `api-key`: by the keys of `ml-serve keys`. `jwt`: by
    the tokens of an issuer. `proxy`: only by the proxy in front, which names them."""

    open: bool = False
    """Let other machines reach a gateway without authentication. Otherwise `none` needs a loopback address."""

    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names by which management calls may name the gateway, such as `*.svc.cluster.local`; `*` stands for any
    text. Addresses and `localhost` are always allowed. Empty: with authentication every name, without it no other."""

    keys_file: Path | None = None
    """File of API keys. Unset: `keys.json` under `home`. Replicas take over changes within seconds."""

    jwt_issuer: str | None = None
    """Value of the claim `iss`."""

    jwt_audience: str | None = None
    """Value that the claim `aud` must contain."""

    jwt_keys: str | None = None
    """Public keys of the issuer: a JWKS at an `https://` URL or in a file."""

    jwt_refresh_s: Annotated[float, Field(gt=0)] = 300
    """Seconds between two fetches of these keys. An unknown key id fetches them at once, at most every 10 seconds."""

    jwt_leeway_s: Annotated[float, Field(ge=0)] = 30
    """Seconds by which the issuer's clock may differ."""

    jwt_scope_claim: str = "scope"
    """Claim with the scopes: text with spaces between them, or a list."""

    jwt_models_claim: str = "models"
    """Claim with patterns of the model names that a caller may use. Tokens without it may use all."""

    proxy_secret: SecretStr | None = None
    """Secret by which a proxy in front proves itself, in the header `x-ml-serve-proxy-secret`. It works beside API keys
    and tokens."""

    proxy_scopes: Annotated[tuple[ScopeName, ...], NoDecode] = ("predict",)
    """Scopes of the callers that the proxy names, unless `proxy_groups_header` is set."""

    proxy_groups_header: str | None = None
    """Header with the groups of a caller, such as `x-consumer-groups`: `predict`, `manage` and `observe` are scopes.
    The proxy must set or remove this header on every request."""

    @field_validator("hosts", "proxy_scopes", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return comma_separated(value)

    @field_validator("keys_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return absolute(value)

    @field_validator("jwt_keys")
    @classmethod
    def _absolute_unless_url(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else str(absolute(Path(value)))


class ShadowSettings(Group):
    """Shadow requests: copies that go to the version of the alias in a model's registry tag `serving.shadow`."""

    max_requests: Annotated[int, Field(ge=0)] = 64
    """Maximum shadow requests in progress in one gateway replica, over all models. The gateway drops and counts more.
    0: no shadow requests."""

    max_rows: PositiveInt = 8192
    """Maximum rows of shadow requests in progress in one gateway replica. A request with more rows is never copied."""

    max_bytes: PositiveInt = 64 * 1024**2
    """Maximum bytes of input and output of shadow requests in progress in one gateway replica, counted as arrays. JSON
    needs several times that memory. A request with more bytes is never copied."""

    timeout_s: Annotated[float, Field(gt=0)] = 10
    """Deadline of a shadow request in seconds, independent of the caller's deadline."""
