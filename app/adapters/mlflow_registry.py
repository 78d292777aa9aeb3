"""The MLflow model registry, read and (its aliases and tags) written, in blocking calls that fail within seconds.

MLflow's defaults suit a training job: seven retries with back-off, two minutes for each request. `configure` sets what
suits a server, and must run before anything else of MLflow is used in a process. MLflow is imported where it is needed
and not above: reading its settings and starting its telemetry are side effects of the import.
"""
# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from app.errors import (
    InvalidReference,
    InvalidRequest,
    ModelNotFound,
    RegistryReadOnly,
    RegistryUnavailable,
    ServingError,
    StartupError,
)
from app.serving.model_ref import ModelVersion
from app.serving.ports import RegisteredModel
from app.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; a page of 1,000 models takes 1.5
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}
"""What the environment does not already say otherwise."""

_CONNECT_S = 3.0  # until a registry that accepts no connection is called unreachable
_PAGE = 1000  # the most that MLflow gives in one answer
_MAX_VERSION = 2**31 - 1  # a greater number overflows the column and would look like a broken database
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_READY = "READY"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for names that no model can have
_REFUSED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
_READ_ONLY = ("attempt to write a readonly database", "read-only transaction", "permission denied for")
"""What SQLite and PostgreSQL say to a write that they refuse, the last with a table; a server passes it on."""

T = TypeVar("T")


def configure(settings: Settings) -> None:
    """Set up MLflow in this process: where it is, how long it may take, and that it keeps quiet."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    os.environ.update(settings.storage_environment())
    import mlflow

    exported = {variable: os.environ.get(variable) for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.registry_uri)
    # MLflow exports them to child processes, where they would look like the operator's own settings.
    for variable, before in exported.items():
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class MlflowRegistry:
    """`ModelRegistry` on an MLflow server or database. Nothing is connected to before the first call.

    A version counts once it is READY. A pending one has no complete artifacts yet and a failed one never will, so to
    callers neither exists; a pending one appears with the first reading after it is done.
    """

    def __init__(self, settings: Settings) -> None:
        self._tracking_uri = settings.tracking_uri
        self._registry_uri = settings.registry_uri
        self._read_only = settings.registry_read_only
        self._connected: MlflowClient | None = None

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, by one call per 1,000. Raises `RegistryUnavailable`."""
        models: list[RegisteredModel] = []
        token = None
        while True:
            page = self._answer(
                lambda client, at=token: client.search_registered_models(max_results=_PAGE, page_token=at)
            )
            models += [self._describe(model) for model in page]
            token = page.token
            if not token:
                return models

    def model(self, name: str) -> RegisteredModel:
        """One registered model. Raises `ModelNotFound` or `RegistryUnavailable`."""
        found = self._ask(lambda client: client.get_registered_model(name))
        if found is not None:
            return self._describe(found)
        raise ModelNotFound(f"there is no registered model '{name}'", {"model": name})

    def has_version(self, version: ModelVersion) -> bool:
        """Whether the version exists and is READY. Raises `RegistryUnavailable`."""
        return self._version(version) is not None

    def identity(self, version: ModelVersion) -> str:
        """What tells the version from another one that is registered under its name and number later.

        Raises:
            ModelNotFound: no such version, or it is not READY.
            RegistryUnavailable: the registry does not answer.
        """
        found = self._existing(version)
        return f"{found.creation_timestamp} {found.source}"

    def download(self, version: ModelVersion, folder: Path) -> None:
        """Fetch the version's artifacts into a folder that exists and is empty.

        Raises:
            ModelNotFound: no such version, or it is not READY.
            RegistryUnavailable: the registry does not answer.
            OSError: the artifact store does not give them; the cause says why.
        """
        self._existing(version)
        uri = self._answer(lambda client: client.get_model_version_download_uri(*version))
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            store = get_artifact_repository(uri, tracking_uri=self._tracking_uri, registry_uri=self._registry_uri)
            store.download_artifacts("", dst_path=str(folder))
        except Exception as error:  # each kind of store raises its own
            raise OSError(f"the artifacts of {version} cannot be downloaded") from error
        if not any(folder.iterdir()):  # what is not there is an empty folder to MLflow
            raise OSError(f"the artifacts of {version} are gone from the artifact store")

    def describe_versions(self, name: str) -> list[dict[str, Any]]:
        """Every version of a model in whatever status, newest first, as JSON values: what the model's page shows.

        Raises:
            ModelNotFound: no such model.
            RegistryUnavailable: the registry does not answer.
        """
        versions = [
            {
                "version": str(version.version),
                "status": version.status,
                "description": version.description or "",
                "run_id": version.run_id or None,
                "created": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(),
                "tags": dict(version.tags),
            }
            for version in self._versions(name)
        ]
        if not versions:
            self.model(name)  # raises where there is no such model at all
        return versions

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias of a model mean a version.

        Raises:
            ModelNotFound: no such model, or no such READY version.
            InvalidReference: MLflow has no such aliases: `latest`, `v1` and the like.
            RegistryReadOnly: this client may not write, or is set never to.
            RegistryUnavailable: the registry does not answer.
        """
        self._require_writable()
        self._existing(ModelVersion(name, version))
        if not self._write(lambda client: client.set_registered_model_alias(name, alias, version)):
            self._existing(ModelVersion(name, version))  # it may have gone meanwhile
            raise _no_alias(alias)

    def delete_alias(self, name: str, alias: str) -> None:
        """Let an alias of a model mean nothing; no error where it does not exist. Raises as `set_alias` does."""
        if not self._write(lambda client: client.delete_registered_model_alias(name, alias)):
            self.model(name)
            raise _no_alias(alias)

    def set_tag(self, name: str, tag: str, value: str) -> None:
        """Set a tag of a model, whatever it was before.

        Raises:
            ModelNotFound: no such model.
            InvalidRequest: MLflow has no such tags: a key or a value that is too long.
            RegistryReadOnly: this client may not write, or is set never to.
            RegistryUnavailable: the registry does not answer.
        """
        if not self._write(lambda client: client.set_registered_model_tag(name, tag, value)):
            self.model(name)
            raise _no_tag(tag)

    def delete_tag(self, name: str, tag: str) -> None:
        """Remove a tag of a model; no error where it does not exist. Raises as `set_tag` does."""
        if not self._write(lambda client: client.delete_registered_model_tag(name, tag)):
            self.model(name)
            raise _no_tag(tag)

    def check(self) -> None:
        """Reach the registry now. An SQLite database that is not there yet is created, which takes seconds.

        Raises:
            RegistryUnavailable: it does not answer; known within seconds where no connection can be made.
            StartupError: it cannot work as configured.
        """
        try:
            self._answer(lambda client: client.search_registered_models(max_results=1))
        except RegistryUnavailable as error:
            if getattr(error.__cause__, "error_code", None) == "FEATURE_DISABLED":
                raise StartupError("the registry's URI is of a kind in which MLflow keeps no models") from error
            if "out-of-date database schema" in str(error.__cause__):
                raise StartupError(
                    "the MLflow database was made by another release of MLflow: run 'mlflow db upgrade' on it"
                ) from error
            raise

    def _describe(self, model: Any) -> RegisteredModel:
        # MLflow gives the newest version of each stage, in whatever status, and stages are used no more: mostly one.
        latest = sorted(model.latest_versions, key=lambda version: int(version.version), reverse=True)
        if latest and latest[0].status != _READY:
            latest = list(self._versions(model.name))
        ready = next((str(version.version) for version in latest if version.status == _READY), None)
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        return RegisteredModel(model.name, aliases, dict(model.tags), ready, model.creation_timestamp or 0)

    def _existing(self, version: ModelVersion) -> Any:
        found = self._version(version)
        if found is None:
            self.model(version.name)  # raises where there is no such model at all
            raise ModelNotFound(
                f"model '{version.name}' has no version {version.version} that is ready", {"model": version.name}
            )
        return found

    def _version(self, version: ModelVersion) -> Any:
        if not version.version.isdigit() or int(version.version) > _MAX_VERSION:
            return None
        found = self._ask(lambda client: client.get_model_version(version.name, version.version))
        return found if found is not None and found.status == _READY else None

    def _versions(self, name: str) -> Iterator[Any]:
        quote = '"' if "'" in name else "'"
        token = None
        while True:
            page = self._answer(
                lambda client, at=token: client.search_model_versions(
                    f"name={quote}{name}{quote}", order_by=["version_number DESC"], max_results=_PAGE, page_token=at
                )
            )
            yield from page
            token = page.token
            if not token:
                return

    def _ask(self, call: Callable[[MlflowClient], T]) -> T | None:
        """The registry's answer; None where it says that there is no such thing."""
        return self._call(call, _MISSING)

    def _answer(self, call: Callable[..., Any]) -> Any:
        """The registry's answer to what it must be able to answer."""
        return self._call(call, ())

    def _write(self, call: Callable[[MlflowClient], object]) -> bool:
        """Change something. False where the registry says that there is no such thing, or can be none."""
        self._require_writable()
        try:
            return self._ask(lambda client: (call(client),)) is not None
        except RegistryUnavailable as error:
            if getattr(error.__cause__, "error_code", None) == "PERMISSION_DENIED" or any(
                text in str(error.__cause__) for text in _READ_ONLY
            ):
                raise RegistryReadOnly("the model registry does not let the platform write to it") from error.__cause__
            raise

    def _require_writable(self) -> None:
        if self._read_only:
            raise RegistryReadOnly("the platform is set never to write to the model registry (registry_read_only)")

    def _call(self, call: Callable[[MlflowClient], T], missing: Collection[str]) -> T | None:
        try:
            return call(self._client())
        except ServingError:
            raise
        except Exception as error:  # of MLflow, SQLAlchemy, requests, or of a plug-in's store
            code = getattr(error, "error_code", None)
            if code in missing:
                return None
            if code in _REFUSED:
                raise RegistryUnavailable("the model registry refuses this client: check its credentials") from error
            raise RegistryUnavailable("the model registry does not answer") from error

    def _client(self) -> MlflowClient:
        if self._connected is None:
            for uri in (self._tracking_uri, self._registry_uri):
                _reach(uri)
            from mlflow import MlflowClient

            self._connected = MlflowClient(self._tracking_uri, self._registry_uri)
        return self._connected


def _no_alias(alias: str) -> InvalidReference:
    return InvalidReference(f"'{alias[:80]}' cannot be an alias of a model", {"alias": alias[:80]})


def _no_tag(tag: str) -> InvalidRequest:
    return InvalidRequest(f"the model registry takes no such tag '{tag[:80]}', or no such value", {"tag": tag[:80]})


def _reach(uri: str) -> None:
    """Connect once: MLflow tries a database for more than a minute, and any server for three times its timeout."""
    parts = urlsplit(uri)
    scheme, host = parts.scheme.partition("+")[0], parts.hostname
    try:
        if uri.startswith("sqlite:///") and not uri.startswith("sqlite:///file:"):
            path = Path(uri.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=_CONNECT_S)) as database:
                database.execute("PRAGMA schema_version")
        elif (
            scheme in _PORTS
            and host
            and (scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host))
        ):
            socket.create_connection((host, parts.port or _PORTS[scheme]), _CONNECT_S).close()
    except sqlite3.Error as error:
        raise RegistryUnavailable("the model registry's database file cannot be read") from error
    except (OSError, ValueError) as error:
        raise RegistryUnavailable("the model registry does not answer: no connection can be made") from error
