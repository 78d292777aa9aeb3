"""The one place that reads the environment: `Settings`, frozen, built once at start and passed in from there.

Sources, the stronger first: ``ML_SERVE_*`` variables (and the ecosystem's own names, such as ``MLFLOW_TRACKING_URI``),
the YAML file given by ``--config`` or ``ML_SERVE_CONFIG``, the defaults below. Nested fields are written with two
underscores: ``ML_SERVE_LIMITS__ROWS=5000``. An unknown key or a bad value stops the start.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.errors import StartupError

PREFIX = "ML_SERVE_"
CONFIG_VARIABLE = "ML_SERVE_CONFIG"
URL_VARIABLE = "ML_SERVE_URL"
"""Where the command line finds a gateway; no setting of the gateway itself."""

Port = Annotated[int, Field(ge=1, le=65535)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]


def _ecosystem(name: str, own: str | None = None) -> Any:
    """A field that is also read from the ecosystem's variable `name`; our own name wins."""
    return AliasChoices(f"{PREFIX}{own or name}", name)


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Scaling(_Group):
    """How many replicas a deployment has and when it gets more."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """Fewest replicas; unset: 1 on one machine, 2 on a cluster."""

    max_replicas: PositiveInt | None = None
    """Most replicas; unset: 2 on one machine, 10 on a cluster."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 5
    """Calls in progress per replica that autoscaling aims at. One call to a pool is a whole batch."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.25
    """CPU cores that Ray reserves for a replica when it places it; not a limit on what it uses."""

    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs, or a fraction of one, that Ray reserves for a replica."""

    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory that Ray reserves for a replica when it places it; 0 reserves none."""


class GatewayScaling(Scaling):
    """The gateway's replicas: HTTP, validation and batching."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 64
    """HTTP requests in progress per gateway replica that autoscaling aims at."""


class PoolSettings(Scaling):
    """One model pool: a group of replicas that host model versions."""

    model_bytes: PositiveInt = 4 * 1024**3
    """Memory that the resident models of one replica may take together; the least recently used leave first."""

    predict_threads: PositiveInt = 2
    """Predictions that one replica computes at the same time, each in its own thread."""


class BatchSettings(_Group):
    """How rows of concurrent requests for one model version become one call."""

    max_rows: PositiveInt = 1024
    """Most rows in one batch. A single request with more rows still goes, alone."""

    max_bytes: PositiveInt = 8 * 1024**2
    """Most bytes in one batch, estimated from its values."""

    max_in_flight: PositiveInt = 2
    """Batches of one model version that a gateway replica has under way at once."""

    wait_ms: Annotated[float, Field(ge=0)] = 0
    """Milliseconds that a batch waits for more rows. 0: an idle model answers at once, a busy one fills its batches."""


class Limits(_Group):
    """Bounds on one request and on what may wait."""

    body_bytes: PositiveInt = 64 * 1024**2
    """Largest request body in bytes, after decompression; larger ones are answered 413."""

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


class Settings(BaseSettings):
    """Everything that can be set. Built with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
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
    """Alias that a bare model name means. Where a model lacks it, the newest READY version answers."""

    preload: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """References resident and warm before `/readyz` turns true; `*`: every model that has the default alias."""

    registry_poll_s: PositiveSeconds = 5
    """Seconds between two readings of the registry."""

    request_timeout_s: PositiveSeconds = 30
    """Seconds that a request may take where it carries no `x-request-timeout-seconds`."""

    load_timeout_s: PositiveSeconds = 300
    """Seconds that loading one model version may take, download included."""

    failed_load_retry_s: PositiveSeconds = 15
    """Seconds for which a failed load is answered from memory before it is tried again."""

    model_cache: Path | None = None
    """Folder of downloaded artifacts; unset: `models` under `home`. Put it on a volume that outlives the pods."""

    gateway: GatewayScaling = GatewayScaling()
    """Replicas of the gateway."""

    features: Scaling = Scaling(num_cpus=0.1)
    """Replicas that read the feature store."""

    pools: dict[str, PoolSettings] = Field(default_factory=lambda: {"default": PoolSettings()})
    """Model pools by name; a model goes to the one that its `serving.pool` tag names, else to `default`."""

    batch: BatchSettings = BatchSettings()
    """Dynamic batching."""

    limits: Limits = Limits()
    """Limits on requests."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""

    access_log: bool = False
    """Write a line per request and per call between deployments. It costs about a tenth of the throughput."""

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
        """The environment wins over the file, which `load` hands in as arguments; there is no other source."""
        return (env_settings, init_settings)

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
    def demo_feast_repo(self) -> Path:
        return self.home / "feast"

    @property
    def feast_folder(self) -> Path | None:
        """Folder with `feature_store.yaml`, or None where no feature store is configured."""
        if self.feast_repo is not None:
            return self.feast_repo.parent if self.feast_repo.suffix in (".yaml", ".yml") else self.feast_repo
        return self.demo_feast_repo if (self.demo_feast_repo / "feature_store.yaml").exists() else None

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


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings from the environment and an optional YAML file.

    Args:
        config: the YAML file; unset: the one named by ``ML_SERVE_CONFIG``, if any.
        overrides: fields set by command-line options, stronger than every source; None is 'not given'.

    Raises:
        StartupError: an unknown key, a bad value or an unreadable file; names the key, the value and what is allowed.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    from_file = _read_yaml(config) if config else {}
    faults = [*_unknown_variables(os.environ), *_unknown_keys(from_file, str(config))]
    if faults:
        raise StartupError("\n".join(faults))
    try:
        settings = Settings(**from_file)
        given = {key: value for key, value in overrides.items() if value is not None}
        return Settings.model_validate(settings.model_copy(update=given).model_dump()) if given else settings
    except ValidationError as error:
        raise StartupError("\n".join(_describe(error, config))) from None
    except ValueError as error:  # pydantic-settings: a nested value in the environment that is not JSON
        raise StartupError(f"cannot read the settings: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StartupError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise StartupError(f"the configuration file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict | None):
        raise StartupError(f"the configuration file {path} must be a mapping of settings")
    return content or {}


def environment_names() -> Iterator[tuple[str, str]]:
    """Every variable that is read, with the dotted name of its field."""
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [f"{PREFIX}{name.upper()}"]
        for choice in names:
            yield str(choice), name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner in field.annotation.model_fields:
                yield f"{PREFIX}{name.upper()}__{inner.upper()}", f"{name}.{inner}"


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = {name for name, _ in environment_names()} | {CONFIG_VARIABLE, URL_VARIABLE}
    return [
        f"unknown setting {variable}{_did_you_mean(variable, known)}"
        for variable in sorted(environment)
        if variable.startswith(PREFIX) and variable not in known and not variable.startswith(f"{PREFIX}POOLS__")
    ]


def _unknown_keys(content: Mapping[str, Any], source: str) -> list[str]:
    known = list(Settings.model_fields)
    return [
        f"unknown setting '{key}' in {source}{_did_you_mean(str(key), known)}" for key in content if key not in known
    ]


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; see docs/settings.md"


def _describe(error: ValidationError, config: Path | None) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        dotted = ".".join(str(part) for part in fault["loc"])
        names = [dotted, PREFIX + dotted.upper().replace(".", "__")]
        key = next((name for name in names if name in os.environ), f"'{dotted}'" + (f" in {config}" if config else ""))
        secret = any(word in dotted.lower() for word in ("secret", "token"))
        value = "***" if secret else repr(fault["input"])
        yield f"bad setting {key}={value}: {fault['msg']}"
