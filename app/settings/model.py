"""`Settings`: every value that can be set, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.groups import (
    BatchSettings,
    GatewayScaling,
    Limits,
    PoolSettings,
    RequestScaling,
    Scaling,
    ShadowSettings,
)

PREFIX = "ML_SERVE_"
OVERRIDES = "overrides"
"""Argument of `Settings` that holds values stronger than the environment; no setting itself."""

Port = Annotated[int, Field(ge=1, le=65535)]
PositiveSeconds = Annotated[float, Field(gt=0)]


def _ecosystem(name: str, own: str | None = None) -> Any:
    """A field that is also read from the ecosystem's variable `name`; our own name wins."""
    return AliasChoices(f"{PREFIX}{own or name}", name)


class Settings(BaseSettings):
    """Everything that can be set. Built with `load`."""

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

    home: Annotated[Path, Field(validate_default=True)] = Path(".ml-serve")
    """Folder of the embedded state: registry, artifacts, feature store, model cache, run files."""

    profile: Literal["auto", "local", "cluster"] = "auto"
    """Which replica counts are the default ones; `auto` is `cluster` where `RAY_ADDRESS` is set, else `local`."""

    ray_address: str | None = Field(None, validation_alias=_ecosystem("RAY_ADDRESS"))
    """Ray cluster to join; unset: `up` starts a local one and ends it again."""

    http_port: Port = 8000
    """Port of the HTTP endpoints."""

    grpc_port: Port = 9000
    """Port of the gRPC endpoints."""

    haproxy_stats_port: Port = 8404
    """Port of the load balancer's own statistics."""

    haproxy_metrics_port: Port = 9101
    """Port of the load balancer's own Prometheus metrics."""

    dashboard: bool = False
    """Start the Ray dashboard with a local Ray."""

    dashboard_port: Port = 8265
    """Port of the Ray dashboard."""

    drain_s: Annotated[float, Field(ge=0)] = 2
    """Seconds that `up` on a local Ray lets a stopping replica finish what it has begun."""

    mlflow_tracking_uri: str | None = Field(None, validation_alias=_ecosystem("MLFLOW_TRACKING_URI"))
    """MLflow tracking server; unset: SQLite under `home`."""

    mlflow_registry_uri: str | None = Field(None, validation_alias=_ecosystem("MLFLOW_REGISTRY_URI"))
    """MLflow model registry; unset: the tracking server."""

    mlflow_s3_endpoint_url: str | None = Field(None, validation_alias=_ecosystem("MLFLOW_S3_ENDPOINT_URL"))
    """S3 endpoint of model artifacts, for MinIO and other stores that are not AWS."""

    aws_access_key_id: str | None = Field(None, validation_alias=_ecosystem("AWS_ACCESS_KEY_ID"))
    """Access key of the artifact store."""

    aws_secret_access_key: SecretStr | None = Field(None, validation_alias=_ecosystem("AWS_SECRET_ACCESS_KEY"))
    """Secret key of the artifact store."""

    aws_session_token: SecretStr | None = Field(None, validation_alias=_ecosystem("AWS_SESSION_TOKEN"))
    """Session token of the artifact store, for temporary credentials."""

    aws_default_region: str | None = Field(None, validation_alias=_ecosystem("AWS_DEFAULT_REGION"))
    """Region of the artifact store."""

    feast_repo: Path | None = Field(None, validation_alias=_ecosystem("FEAST_FS_YAML_FILE_PATH", own="FEAST_REPO"))
    """Feast repository: the folder of `feature_store.yaml`, or that file; unset: the demo's, if it is there."""

    default_alias: Annotated[str, Field(min_length=1)] = "champion"
    """Alias that a bare model name means. Where a model lacks it: the version last loaded by name, else the newest
    READY one."""

    default_model: str | None = None
    """Reference that a bare `/invocations` answers; unset: only `/invocations/{ref}` is answered."""

    preload: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """References resident and warm before `/readyz` turns true; `*`: every model that has the default alias."""

    registry_poll_s: PositiveSeconds = 5
    """Seconds between two readings of the registry. While it does not answer they grow to 30, with some chance."""

    registry_read_only: bool = False
    """Never write to the registry: promote, rollback and traffic are refused, and what is served is remembered beside
    the artifact cache only."""

    keep_previous_s: Annotated[float, Field(ge=0)] = 600
    """Seconds for which the version that an alias answered before a switch stays in memory, for an instant rollback."""

    request_timeout_s: PositiveSeconds = 30
    """Seconds that a request may take where it carries no `x-request-timeout-seconds`."""

    load_timeout_s: PositiveSeconds = 300
    """Seconds that loading one model version may take, download included."""

    failed_load_retry_s: PositiveSeconds = 15
    """Seconds for which a failed load is answered from memory before it is tried again."""

    model_cache: Path | None = None
    """Folder of downloaded artifacts; unset: `models` under `home`. Put it on a volume that outlives the pods."""

    model_cache_bytes: Annotated[int, Field(ge=0)] = 20 * 1024**3
    """Bytes that the downloaded artifacts of one node may take together; the least recently used leave first, but none
    that a replica has loaded. A download needs room besides. 0: no bound."""

    gateway: GatewayScaling = GatewayScaling()
    """Replicas of the gateway."""

    features: RequestScaling = RequestScaling(num_cpus=0.1)
    """Replicas that read the feature store."""

    pools: dict[str, PoolSettings] = Field(default_factory=lambda: {"default": PoolSettings()})
    """Model pools by name; a model goes to the one that its `serving.pool` tag names, else to `default`."""

    batch: BatchSettings = BatchSettings()
    """Dynamic batching."""

    shadow: ShadowSettings = ShadowSettings()
    """Copies of calls to a shadow version."""

    limits: Limits = Limits()
    """Limits on requests."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""

    access_log: bool = False
    """Write a line per request and per call between deployments."""

    @field_validator("preload", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("pools")
    @classmethod
    def _with_default_pool(cls, value: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
        return {"default": PoolSettings(), **value}

    @field_validator("home", "feast_repo", "model_cache")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Replicas run in folders of their own, so a relative path must not leave the process that read it.
        return value and value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command-line options win over the environment and that over the file, both handed in by `load`."""
        assert isinstance(init_settings, InitSettingsSource)
        options = init_settings.init_kwargs.pop(OVERRIDES, {})
        return (InitSettingsSource(settings_cls, options), env_settings, init_settings)

    @property
    def is_cluster(self) -> bool:
        return self.profile == "cluster" or (self.profile == "auto" and self.ray_address is not None)

    @property
    def tracking_uri(self) -> str:
        """The tracking server in force, the embedded SQLite one included."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home}/mlflow.db"

    @property
    def registry_uri(self) -> str:
        return self.mlflow_registry_uri or self.tracking_uri

    @property
    def is_embedded_registry(self) -> bool:
        return self.mlflow_tracking_uri is None and self.mlflow_registry_uri is None

    @property
    def artifact_root(self) -> Path:
        """Where the embedded tracking store keeps artifacts."""
        return self.home / "artifacts"

    @property
    def cache_folder(self) -> Path:
        return self.model_cache or self.home / "models"

    @property
    def snapshot_file(self) -> Path:
        """What is served, for a start without the registry."""
        return self.cache_folder / "releases.json"

    @property
    def demo_feast_repo(self) -> Path:
        return self.home / "feast"

    @property
    def feast_folder(self) -> Path | None:
        """Folder with `feature_store.yaml`, or None where no feature store is configured."""
        if self.feast_repo is not None:
            return self.feast_repo.parent if self.feast_repo.suffix in (".yaml", ".yml") else self.feast_repo
        return self.demo_feast_repo if (self.demo_feast_repo / "feature_store.yaml").exists() else None

    @property
    def deployed_pools(self) -> dict[str, PoolSettings]:
        """Pools with replicas of their own."""
        return {name: pool for name, pool in self.pools.items() if pool.placement == "deployment"}

    @property
    def gateway_pools(self) -> dict[str, PoolSettings]:
        """Pools whose models live inside the gateway replicas."""
        return {name: pool for name, pool in self.pools.items() if pool.placement == "gateway"}

    def replicas(self, scaling: Scaling) -> tuple[int, int]:
        """Fewest and most replicas of a deployment, defaults of the profile filled in."""
        low, high = (2, 10) if self.is_cluster else (1, 2)
        fewest = low if scaling.min_replicas is None else scaling.min_replicas
        most = max(high, fewest) if scaling.max_replicas is None else scaling.max_replicas
        return min(fewest, most), most

    def storage_environment(self) -> dict[str, str]:
        """Variables by which MLflow and boto3 find the artifact store; secrets in clear, never to be printed."""
        values = {
            "MLFLOW_S3_ENDPOINT_URL": self.mlflow_s3_endpoint_url,
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key and self.aws_secret_access_key.get_secret_value(),
            "AWS_SESSION_TOKEN": self.aws_session_token and self.aws_session_token.get_secret_value(),
            "AWS_DEFAULT_REGION": self.aws_default_region,
        }
        return {key: value for key, value in values.items() if value}
