"""The MLflow model registry, read and (its aliases and tags) written, in blocking calls that fail within seconds.

MLflow's defaults suit a training job: seven retries with back-off, two minutes for each request. `configure` sets what
suits a server, and must run before anything else of MLflow is used in a process. MLflow is imported where it is needed
and not above: reading its settings and starting its telemetry are side effects of the import.
"""
# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.adapters.mlflow.connection import RegistryConnection, code_of
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

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; a page of 1,000 models takes 1.5
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What the environment does not already say otherwise."""

_PAGE = 1000  # the most that MLflow gives in one answer
_MAX_VERSION = 2**31 - 1  # a greater number overflows the column and would look like a broken database
_READY = "READY"


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


def registered_ms(identity: str) -> int:
    """When the version was registered that an identity of `MlflowRegistry` means, in milliseconds; 0 if unknown."""
    stamp = identity.partition(" ")[0]
    return int(stamp) if stamp.isdigit() else 0


class MlflowRegistry:
    """`ModelRegistry` on an MLflow server or database. Nothing is connected to before the first call.

    A version counts once it is READY. A pending one has no complete artifacts yet and a failed one never will, so to
    callers neither exists; a pending one appears with the first reading after it is done.
    """

    def __init__(self, settings: Settings) -> None:
        self._tracking_uri = settings.tracking_uri
        self._registry_uri = settings.registry_uri
        self._read_only = settings.registry_read_only
        self._connection = RegistryConnection(self._tracking_uri, self._registry_uri)

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, by one call per 1,000. Raises `RegistryUnavailable`.

        That a model is missing does not mean that it is gone: it may have slipped between two pages, and an empty
        object, which anything may answer, reads as an empty registry. `model` tells for certain.
        """
        found = self._all(
            lambda client, page_token: client.search_registered_models(max_results=_PAGE, page_token=page_token), "name"
        )
        return [self._describe(model) for model in found]

    def model(self, name: str) -> RegisteredModel:
        """One registered model.

        Raises:
            ModelNotFound: the registry itself says that there is no such model.
            RegistryUnavailable: it does not answer.
        """
        found = self._connection.find(name, lambda client: client.get_registered_model(name))
        if found is not None:
            described = self._describe(found)
            if described.name == name:
                return described
            if not _same(described.name, name):
                raise RegistryUnavailable("the model registry answers with another model than was asked for")
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
        uri = self._connection.answer(lambda client: client.get_model_version_download_uri(*version))
        if not uri:
            raise RegistryUnavailable("the model registry does not say where the artifacts are")
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
        with _understanding():
            versions = [
                {
                    "version": str(int(version.version)),
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
            self._connection.answer(lambda client: client.search_registered_models(max_results=1))
        except RegistryUnavailable as error:
            if code_of(error.__cause__) == "FEATURE_DISABLED":
                raise StartupError("the registry's URI is of a kind in which MLflow keeps no models") from error
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise StartupError(
                    f"the model registry needs the library '{error.__cause__.name}', which is not installed here"
                ) from error
            if "out-of-date database schema" in str(error.__cause__):
                raise StartupError(
                    "the MLflow database was made by another release of MLflow: run 'mlflow db upgrade' on it"
                ) from error
            raise

    def _describe(self, model: Any) -> RegisteredModel:
        with _understanding():
            if not model.name:
                raise ValueError("a model without a name")
            # MLflow gives the newest version of each stage, in whatever status; stages are used no more: mostly one.
            latest = sorted(model.latest_versions, key=lambda version: int(version.version), reverse=True)
            if latest and latest[0].status != _READY:
                latest = self._versions(model.name)
            ready = next((str(version.version) for version in latest if version.status == _READY), None)
            aliases = {alias: str(int(version)) for alias, version in model.aliases.items()}
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
        found = self._connection.find(
            version.name, lambda client: client.get_model_version(version.name, version.version)
        )
        if found is None:
            return None
        with _understanding():
            if int(found.version) != int(version.version) or not _same(found.name, version.name):
                raise ValueError("another version than was asked for")
        return found if found.status == _READY else None

    def _versions(self, name: str) -> list[Any]:
        """Every version of a model in whatever status, newest first."""
        quote = '"' if "'" in name else "'"
        only, newest_first = f"name={quote}{name}{quote}", ["version_number DESC"]
        found = self._all(
            lambda client, page_token: client.search_model_versions(
                only, order_by=newest_first, max_results=_PAGE, page_token=page_token
            ),
            "version",
        )
        with _understanding():
            if not all(_same(version.name, name) for version in found):
                raise ValueError("versions of another model than was asked for")
        return found

    def _all(self, search: Callable[..., Any], key: str) -> list[Any]:
        """All that a search finds, page by page, each once by its attribute `key`."""
        found: dict[Any, Any] = {}
        token = None
        while True:
            page = self._connection.answer(partial(search, page_token=token))
            more = {getattr(one, key): one for one in page}
            token = page.token
            if token and more.keys() <= found.keys():
                raise RegistryUnavailable("the model registry's answer has no end")
            found |= more
            if not token:
                return list(found.values())

    def _write(self, call: Callable[[MlflowClient], object]) -> bool:
        self._require_writable()
        return self._connection.write(call)

    def _require_writable(self) -> None:
        if self._read_only:
            raise RegistryReadOnly("the platform is set never to write to the model registry (registry_read_only)")


@contextmanager
def _understanding() -> Iterator[None]:
    """What does not have an answer's form, though it could be parsed, is not the registry's."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RegistryUnavailable("the model registry's answer is none of MLflow's") from error


def _same(name: str, other: str) -> bool:
    """Whether a registry may mean one model by both names: on MySQL it minds no case."""
    return name.casefold() == other.casefold()


def _no_alias(alias: str) -> InvalidReference:
    return InvalidReference(f"'{alias[:80]}' cannot be an alias of a model", {"alias": alias[:80]})


def _no_tag(tag: str) -> InvalidRequest:
    return InvalidRequest(f"the model registry takes no such tag '{tag[:80]}', or no such value", {"tag": tag[:80]})
