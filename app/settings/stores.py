"""Settings of the registry and the artifact store, which MLflow and boto3 read from variables of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.groups import ecosystem


def without_password(uri: str) -> str:
    """Return the URI without user and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


class Stores(BaseSettings):
    """Addresses and credentials of MLflow and its artifact store, and where the embedded ones lie."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    home: Annotated[Path, Field(validate_default=True)] = Path(".ml-serve")
    """Folder of the embedded registry, artifacts, feature store and model cache, and of run files."""

    mlflow_tracking_uri: str | None = Field(None, validation_alias=ecosystem("MLFLOW_TRACKING_URI"))
    """MLflow tracking server. Unset: SQLite under `home`."""

    mlflow_registry_uri: str | None = Field(None, validation_alias=ecosystem("MLFLOW_REGISTRY_URI"))
    """MLflow model registry. Unset: the tracking server."""

    mlflow_s3_endpoint_url: str | None = Field(None, validation_alias=ecosystem("MLFLOW_S3_ENDPOINT_URL"))
    """S3 endpoint of the artifact store, for MinIO and other stores outside AWS."""

    aws_access_key_id: str | None = Field(None, validation_alias=ecosystem("AWS_ACCESS_KEY_ID"))
    """Access key of the artifact store."""

    aws_secret_access_key: SecretStr | None = Field(None, validation_alias=ecosystem("AWS_SECRET_ACCESS_KEY"))
    """Secret key of the artifact store."""

    aws_session_token: SecretStr | None = Field(None, validation_alias=ecosystem("AWS_SESSION_TOKEN"))
    """Session token of the artifact store, for temporary credentials."""

    aws_default_region: str | None = Field(None, validation_alias=ecosystem("AWS_DEFAULT_REGION"))
    """Region of the artifact store."""

    @property
    def is_embedded_registry(self) -> bool:
        return self.mlflow_tracking_uri is None and self.mlflow_registry_uri is None

    @property
    def tracking_uri(self) -> str:
        """The tracking server, or the embedded SQLite database."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home}/mlflow.db"

    @property
    def registry_uri(self) -> str:
        return self.mlflow_registry_uri or self.tracking_uri

    @property
    def artifact_root(self) -> Path:
        """Artifact folder of the embedded tracking store."""
        return self.home / "artifacts"

    def storage_environment(self) -> dict[str, str]:
        """Return variables for MLflow and boto3 to access the artifact store. Contains secrets: never print it."""
        values = {
            "MLFLOW_S3_ENDPOINT_URL": self.mlflow_s3_endpoint_url,
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key and self.aws_secret_access_key.get_secret_value(),
            "AWS_SESSION_TOKEN": self.aws_session_token and self.aws_session_token.get_secret_value(),
            "AWS_DEFAULT_REGION": self.aws_default_region,
        }
        return {key: value for key, value in values.items() if value}
