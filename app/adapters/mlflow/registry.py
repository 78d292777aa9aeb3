"""MLflow model registry: reads models and versions, writes aliases and tags, in blocking calls that fail in seconds.

MLflow's defaults suit a training job: seven retries with back-off, two minutes for each request. `configure` sets what
suits a server, and must run before a process uses anything else of MLflow. The import of MLflow reads its settings and
starts its telemetry, so it happens only inside functions.
"""
# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.adapters.mlflow.connection import RegistryConnection, error_code
from app.adapters.mlflow.header_providers import leave_out_feast
from app.errors import (
    InvalidReference,
    InvalidRequest,
    ModelNotFound,
    RegistryReadOnly,
    RegistryUnavailable,
    StartupError,
)
from app.serving.references import ModelVersion
from app.serving.releases.registered_model import RegisteredModel
from app.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; a page of 1,000 models takes 1.5
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Set unless the environment already says otherwise."""

_PAGE = 1000  # MLflow's maximum
_MAX_VERSION = 2**31 - 1  # a greater number overflows the column and would look like a broken database
_READY = "READY"


def configure(settings: Settings) -> None:
    """Configure MLflow in this process: URIs, credentials, timeouts and log levels."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    os.environ.update(settings.storage_environment())
    if settings.environments.code == "refuse":  # beside `app.adapters.mlflow.code`, where MLflow knows better
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow

    leave_out_feast()
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


def registered_ms(identity: str) -> int:
    """Return the registration time in an identity of `MlflowRegistry`, in milliseconds since 1970; 0 if unknown."""
    stamp = identity.partition(" ")[0]
    return int(stamp) if stamp.isdigit() else 0


class MlflowRegistry:
    """`app.serving.ports.ModelRegistry` on an MLflow server or database. Connects with the first call. Thread-safe.

    Only READY versions exist: a pending one has no complete artifacts yet, and a failed one never will. Writes raise
    `RegistryReadOnly` if the registry or the setting ``registry_read_only`` forbids them. Models that the setting
    ``models`` leaves out do not exist either.
    """

    def __init__(self, settings: Settings) -> None:
        self._uris = settings.tracking_uri, settings.registry_uri
        self._read_only = settings.registry_read_only
        self._serves = settings.serves
        self._connection = RegistryConnection(*self._uris)

    def models(self) -> Sequence[RegisteredModel]:
        """Return every registered model, with one request per 1,000. Raises `RegistryUnavailable`.

        A missing model is not proof that it was deleted: it may have slipped between two pages, and an empty JSON
        object from a proxy reads as an empty registry. `model` is authoritative.
        """
        found = self._all(
            lambda client, page_token: client.search_registered_models(max_results=_PAGE, page_token=page_token), "name"
        )
        return [self._parse(model) for model in found if self._serves(model.name)]

    def model(self, name: str) -> RegisteredModel:
        served = self._serves(name)
        found = self._connection.find(name, lambda client: client.get_registered_model(name)) if served else None
        if found is not None:
            model = self._parse(found)
            if model.name == name:
                return model
            if not _is_same(model.name, name):
                raise RegistryUnavailable("the model registry answered with another model than the one requested")
        raise ModelNotFound(f"there is no registered model '{name}'", {"model": name})

    def has_version(self, version: ModelVersion) -> bool:
        return self._find(version) is not None

    def identity(self, version: ModelVersion) -> str:
        """Return what distinguishes the version from a later one with the same name and number.

        Raises:
            ModelNotFound: no such version, or it is not READY.
            RegistryUnavailable: the registry does not respond.
        """
        found = self._require(version)
        return f"{found.creation_timestamp} {found.source}"

    def download(self, version: ModelVersion, folder: Path) -> None:
        """Download the artifacts of a version into an existing, empty folder.

        Raises:
            ModelNotFound: no such version, or it is not READY.
            RegistryUnavailable: the registry does not respond.
            OSError: the artifact store failed; the cause says why.
        """
        self._require(version)
        uri = self._connection.call(lambda client: client.get_model_version_download_uri(*version))
        if not uri:
            raise RegistryUnavailable("the model registry does not say where the artifacts are")
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            store = get_artifact_repository(uri, *self._uris)
            store.download_artifacts("", dst_path=str(folder))
        except Exception as error:  # each kind of store raises its own
            raise OSError(f"failed to download the artifacts of {version}") from error
        if not any(folder.iterdir()):  # MLflow downloads missing artifacts as an empty folder
            raise OSError(f"the artifacts of {version} are gone from the artifact store")

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._require_writable()
        self._require(ModelVersion(name, version))
        if not self._connection.write(lambda client: client.set_registered_model_alias(name, alias, version)):
            self._require(ModelVersion(name, version))  # it may have been deleted meanwhile
            raise InvalidReference(f"'{alias[:80]}' cannot be an alias of a model", {"alias": alias[:80]})

    def set_tag(self, name: str, tag: str, value: str) -> None:
        self._write_tag(name, tag, lambda client: client.set_registered_model_tag(name, tag, value))

    def delete_tag(self, name: str, tag: str) -> None:
        self._write_tag(name, tag, lambda client: client.delete_registered_model_tag(name, tag))

    def check(self) -> None:
        """Connect to the registry. Creates a missing SQLite database, which takes seconds.

        Raises:
            RegistryUnavailable: it does not respond; known within seconds if no connection can be made.
            StartupError: it cannot work as configured.
        """
        try:
            self._connection.call(lambda client: client.search_registered_models(max_results=1))
        except RegistryUnavailable as error:
            if error_code(error.__cause__) == "FEATURE_DISABLED":
                raise StartupError("MLflow keeps no models at a registry URI of this kind") from error
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise StartupError(
                    f"the model registry needs the library '{error.__cause__.name}', which is not installed here"
                ) from error
            if "out-of-date database schema" in str(error.__cause__):
                raise StartupError(
                    "the MLflow database was made by another release of MLflow: run 'mlflow db upgrade' on it"
                ) from error
            raise

    def _parse(self, model: Any) -> RegisteredModel:
        with _reject_nonsense():
            if not model.name:
                raise ValueError("a model without a name")
            # MLflow gives the newest version of each stage, whatever its status. Stages are deprecated: mostly one.
            latest = sorted(model.latest_versions, key=lambda version: int(version.version), reverse=True)
            if latest and latest[0].status != _READY:
                latest = self._versions(model.name)
            ready = next((str(version.version) for version in latest if version.status == _READY), None)
            aliases = {alias: str(int(version)) for alias, version in model.aliases.items()}
            return RegisteredModel(model.name, aliases, dict(model.tags), ready, model.creation_timestamp or 0)

    def _require(self, version: ModelVersion) -> Any:
        found = self._find(version)
        if found is None:
            self.model(version.name)  # raises if the model does not exist either
            raise ModelNotFound(
                f"model '{version.name}' has no version {version.version} that is ready", {"model": version.name}
            )
        return found

    def _find(self, version: ModelVersion) -> Any:
        if not version.version.isdigit() or int(version.version) > _MAX_VERSION or not self._serves(version.name):
            return None
        found = self._connection.find(version.name, lambda client: client.get_model_version(*version))
        if found is None:
            return None
        with _reject_nonsense():
            if int(found.version) != int(version.version) or not _is_same(found.name, version.name):
                raise ValueError("another version than the one requested")
        return found if found.status == _READY else None

    def _versions(self, name: str) -> list[Any]:
        """Return every version of a model, whatever its status, newest first."""
        quote = '"' if "'" in name else "'"
        of_name, newest_first = f"name={quote}{name}{quote}", ["version_number DESC"]
        found = self._all(
            lambda client, page_token: client.search_model_versions(of_name, _PAGE, newest_first, page_token), "version"
        )
        with _reject_nonsense():
            if not all(_is_same(version.name, name) for version in found):
                raise ValueError("versions of another model than the one requested")
        return found

    def _all(self, search: Callable[..., Any], key: str) -> list[Any]:
        """Return all results of a paged search, each once by its attribute `key`."""
        found: dict[Any, Any] = {}
        token = None
        while True:
            page = self._connection.call(partial(search, page_token=token))
            more = {getattr(one, key): one for one in page}
            token = page.token
            if token and more.keys() <= found.keys():
                raise RegistryUnavailable("the model registry repeats a page without end")
            found |= more
            if not token:
                return list(found.values())

    def _write_tag(self, name: str, tag: str, request: Callable[[MlflowClient], object]) -> None:
        self._require_writable()
        if not self._serves(name) or not self._connection.write(request):
            self.model(name)  # raises if the model does not exist
            message = f"the model registry rejects the tag '{tag[:80]}': its key or value is invalid"
            raise InvalidRequest(message, {"tag": tag[:80]})

    def _require_writable(self) -> None:
        if self._read_only:
            raise RegistryReadOnly("the setting registry_read_only forbids writes to the model registry")


@contextmanager
def _reject_nonsense() -> Iterator[None]:
    """Turn the error of a malformed answer into `RegistryUnavailable`: such an answer is not the registry's."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RegistryUnavailable("the model registry sent a malformed answer") from error


def _is_same(name: str, other: str) -> bool:
    """Return whether a registry may mean one model by both names: on MySQL, names ignore case."""
    return name.casefold() == other.casefold()
