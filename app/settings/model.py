"""`Settings`: every value that can be set, frozen."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_settings import InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.groups import (
    PREFIX,
    AuthSettings,
    BatchSettings,
    EnvironmentSettings,
    GatewayScaling,
    PoolSettings,
    RequestScaling,
    Scaling,
    ShadowSettings,
    absolute,
    comma_separated,
    ecosystem,
)
from app.settings.limits import Limits
from app.settings.observation import TraceSettings, standard_variables
from app.settings.signatures import SignatureSettings
from app.settings.stores import Stores, without_password

OVERRIDES = "overrides"
"""Argument of `Settings` with values that override the environment. Not a setting."""

Port = Annotated[int, Field(ge=1, le=65535)]
_URIS = ("mlflow_tracking_uri", "mlflow_registry_uri")
PositiveSeconds = Annotated[float, Field(gt=0)]


class Settings(Stores):
    """All settings. Build them with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        nested_model_default_partial_update=True,
    )

    profile: Literal["auto", "local", "cluster"] = "auto"
    """Default replica counts: of one machine or of a cluster. `auto`: `cluster` if `RAY_ADDRESS` is set."""

    ray_address: str | None = Field(None, validation_alias=ecosystem("RAY_ADDRESS"))
    """Ray cluster to join. Unset: `up` starts a local cluster and stops it at the end."""

    host: str | None = None
    """Address at which HTTP and gRPC are served. Unset: 127.0.0.1 on one machine, every address on a cluster."""

    http_port: Port = 8000
    """Port of the HTTP endpoints."""

    grpc_port: Port = 9000
    """Port of the gRPC endpoints."""

    haproxy_stats_port: Port = 8404
    """Port of the load balancer's statistics page."""

    haproxy_metrics_port: Port = 9101
    """Port of the load balancer's Prometheus metrics."""

    connection_idle_s: PositiveInt = 60
    """Seconds after which the load balancer closes the connection of a caller that has stopped sending a request. Idle
    connections between requests are kept."""

    dashboard: bool = False
    """Start the Ray dashboard with a local cluster."""

    dashboard_port: Port = 8265
    """Port of the Ray dashboard."""

    drain_s: Annotated[float, Field(ge=0)] = 2
    """Seconds that a stopping replica of a local cluster has to finish its requests."""

    feast_repo: Path | None = Field(None, validation_alias=ecosystem("FEAST_FS_YAML_FILE_PATH", own="FEAST_REPO"))
    """Feast repository: the folder of `feature_store.yaml`, or that file. Unset: the demo's, if it exists."""

    default_alias: Annotated[str, Field(min_length=1)] = "champion"
    """Alias that a bare model name refers to. A model without this alias answers with its newest READY version."""

    default_model: str | None = None
    """Model reference for `/invocations` without one. Unset: only `/invocations/{ref}` works."""

    preload: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Model references to load and warm up before `/readyz` succeeds. `*`: every model with the default alias."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of web pages that browsers let call the gateway, such as `https://app.example.com`; `*` is every origin.
    Empty: none, which is right behind a proxy that does this itself."""

    models: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Patterns of the registered models that are served; `*` stands for any text. The gateway treats others as if they
    were not registered."""

    registry_poll_s: PositiveSeconds = 5
    """Seconds between two polls of the registry. During an outage the interval grows to 30 seconds, with jitter."""

    registry_read_only: bool = False
    """Never write to the registry. The gateway refuses promote, rollback and traffic, and stores its state only beside
    the artifact cache."""

    keep_previous_s: Annotated[float, Field(ge=0)] = 600
    """Seconds for which the previous version of an alias stays in memory after a rollout, for an instant rollback."""

    request_timeout_s: PositiveSeconds = 30
    """Deadline in seconds of requests without the header `x-request-timeout-seconds`."""

    stream_idle_s: PositiveSeconds = 300
    """Maximum seconds between two events of a stream. The deadline applies to the first event only."""

    load_timeout_s: PositiveSeconds = 300
    """Maximum seconds to load one model version, including the download."""

    failed_load_retry_s: PositiveSeconds = 15
    """Seconds to wait after a failed load before the next try. Until then requests get the same error."""

    model_cache: Path | None = None
    """Folder of downloaded artifacts. Unset: `models` under `home`. Put it on a volume that outlives the pods."""

    model_cache_bytes: Annotated[int, Field(ge=0)] = 20 * 1024**3
    """Maximum bytes of downloaded artifacts on one node. The least recently used are removed first, but never those of
    a loaded version. Downloads need additional space. 0: no limit."""

    gateway: GatewayScaling = GatewayScaling()
    """Scaling of the gateway."""

    features: RequestScaling = RequestScaling(num_cpus=0.1)
    """Scaling of the deployment that reads the feature store."""

    pools: dict[str, PoolSettings] = Field(default_factory=lambda: {"default": PoolSettings()})
    """Model pools by name. A model runs in the pool that its tag `serving.pool` names, else in `default`."""

    transport: Literal["lanes", "handle"] = "lanes"
    """How batches travel from gateways to pools, and reads to the feature store. `lanes`: over connections of their
    own, and over Ray Serve's handle where there is none, as in a Ray with TLS. `handle`: over Ray Serve's handle only,
    at several times the cost."""

    not_accelerated: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of models that are called exactly as MLflow calls them; `*` is every model. Others are called in a faster
    way where it is proven to give equal answers."""

    environments: EnvironmentSettings = EnvironmentSettings()
    """Processes and libraries of model versions."""

    signatures: SignatureSettings = SignatureSettings()
    """Signatures of model artifacts."""

    batch: BatchSettings = BatchSettings()
    """Dynamic batching."""

    shadow: ShadowSettings = ShadowSettings()
    """Shadow requests."""

    limits: Limits = Limits()
    """Limits on requests."""

    auth: AuthSettings = AuthSettings()
    """Authentication of callers."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum severity of log lines."""

    log_format: Literal["text", "json"] = "text"
    """Form of log lines. `json`: each line is one JSON object. See `docs/operate/monitor.md`."""

    traces: TraceSettings = TraceSettings()
    """Traces of predictions."""

    access_log: bool = False
    """Log every request and every call between deployments."""

    @field_validator("models", "preload", "cors_origins", "not_accelerated", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return comma_separated(value)

    @field_validator("pools")
    @classmethod
    def _with_default_pool(cls, value: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
        return {"default": PoolSettings(), **value}

    @field_validator("home", "feast_repo", "model_cache")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return absolute(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[Any],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: command-line options, the environment, the file. `load` passes the first and the last."""
        assert isinstance(init_settings, InitSettingsSource)
        options = init_settings.init_kwargs.pop(OVERRIDES, {})
        own = (InitSettingsSource(settings_cls, options), env_settings, init_settings)
        return (*own, *standard_variables(settings_cls))

    def serves(self, name: str) -> bool:
        """Return whether a registered model is served."""
        return any(fnmatchcase(name, pattern) for pattern in self.models)

    def without_secrets(self) -> Settings:
        """Return a copy for processes of models: without credentials of stores, callers and proxies."""
        secrets = {"aws_access_key_id": None, "aws_secret_access_key": None, "aws_session_token": None}
        uris = {name: without_password(uri) for name in _URIS if (uri := getattr(self, name)) is not None}
        return self.model_copy(update={**secrets, **uris, "auth": AuthSettings(), "traces": TraceSettings()})

    def accelerates(self, name: str) -> bool:
        """Return whether a model may be called in a faster way than MLflow's."""
        return not {name, "*"} & {*self.not_accelerated}

    @property
    def is_cluster(self) -> bool:
        return self.profile == "cluster" or (self.profile == "auto" and self.ray_address is not None)

    @property
    def cache_folder(self) -> Path:
        return self.model_cache or self.home / "models"

    @property
    def snapshot_file(self) -> Path:
        """The snapshot of the release table, for a start without the registry."""
        return self.cache_folder / "releases.json"

    @property
    def demo_feast_repo(self) -> Path:
        return self.home / "feast"

    @property
    def feast_folder(self) -> Path | None:
        """Folder of `feature_store.yaml`; None without a feature store."""
        if self.feast_repo is not None:
            return self.feast_repo.parent if self.feast_repo.suffix in (".yaml", ".yml") else self.feast_repo
        return self.demo_feast_repo if (self.demo_feast_repo / "feature_store.yaml").exists() else None

    @property
    def deployed_pools(self) -> dict[str, PoolSettings]:
        """Pools with replicas of their own."""
        return {name: pool for name, pool in self.pools.items() if pool.placement == "deployment"}

    @property
    def gateway_pools(self) -> dict[str, PoolSettings]:
        """Pools whose models run inside the gateway replicas."""
        return {name: pool for name, pool in self.pools.items() if pool.placement == "gateway"}

    @property
    def bind_host(self) -> str:
        """The address at which HTTP and gRPC are served."""
        return self.host or ("0.0.0.0" if self.is_cluster else "127.0.0.1")  # noqa: S104 - see `app.deployments.access`

    @property
    def keys_path(self) -> Path:
        """File of API keys."""
        return self.auth.keys_file or self.home / "keys.json"

    @property
    def replica_drain_s(self) -> float:
        """Seconds that a stopping replica behind the gateway has to finish its calls."""
        return 30.0 if self.is_cluster else max(self.drain_s, 1.0)

    @property
    def longest_load_s(self) -> float:
        """Maximum seconds to load a version whose environment has to be built first."""
        return self.load_timeout_s + self.environments.build_timeout_s

    def replicas(self, scaling: Scaling) -> tuple[int, int]:
        """Return the minimum and maximum replicas of a deployment, with the defaults of the profile."""
        low, high = (2, 10) if self.is_cluster else (1, 2)
        fewest = low if scaling.min_replicas is None else scaling.min_replicas
        most = max(high, fewest) if scaling.max_replicas is None else scaling.max_replicas
        return min(fewest, most), most
