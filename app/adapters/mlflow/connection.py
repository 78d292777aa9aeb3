"""Connection to an MLflow registry: calls that end in time, and errors that say whose fault it is.

A proxy between client and registry may answer in the registry's place, even with status 200. Therefore only answers
that no one but the registry can give count as its answers.
"""
# ruff: noqa: PLC0415 - importing MLflow reads its settings and starts its telemetry: only where it is used

from __future__ import annotations

import socket
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from app.adapters.mlflow.timeouts import BoundedCalls
from app.errors import RegistryReadOnly, RegistryUnavailable, ServingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CONNECT_S = 3.0
_SLACK_S = 3.0  # added to the sum of MLflow's own timeouts and pauses
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_UNAUTHORIZED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
_INVALID_WRITE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_READ_ONLY = ("attempt to write a readonly database", "read-only transaction", "permission denied for")
"""Errors of SQLite and PostgreSQL (the last with a table) for refused writes; an MLflow server repeats them."""

T = TypeVar("T")


class RegistryConnection:
    """Connects with the first call. Thread-safe.

    Args:
        tracking_uri: MLflow's tracking URI, which locates the artifacts of a version that names a run.
        registry_uri: location of the registered models.
    """

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        self._uris = (tracking_uri, registry_uri)
        self._is_local = all(uri.startswith("sqlite:") for uri in self._uris)
        self._calls = BoundedCalls()
        self._client: MlflowClient | None = None

    def call(self, request: Callable[[MlflowClient], T]) -> T:
        """Return what `request` returns. Raises `RegistryUnavailable`, whose cause is MLflow's error."""
        try:
            if self._is_local:  # a file cannot hang, but its database may take long to create
                return request(self._connected())
            return self._calls.run(lambda: request(self._connected()), _timeout_s())
        except ServingError:
            raise
        except Exception as error:  # of MLflow, SQLAlchemy, requests, or a plug-in's store
            if error_code(error) in _UNAUTHORIZED:
                raise RegistryUnavailable("the model registry refuses this client: check its credentials") from error
            raise RegistryUnavailable("the model registry does not answer") from error

    def find(self, name: str, request: Callable[[MlflowClient], T]) -> T | None:
        """Return what `request` returns, or None if the registry says that this model, or a part of it, does not exist.

        The error code alone does not prove that: a server also uses it for an unknown workspace.
        """
        if not _is_valid(name):
            return None
        try:
            return self.call(request)
        except RegistryUnavailable as error:
            if error_code(error.__cause__) == "RESOURCE_DOES_NOT_EXIST" and name in str(error.__cause__):
                return None
            raise

    def write(self, request: Callable[[MlflowClient], object]) -> bool:
        """Change something. Return False if the registry says that the object does not exist or cannot exist.

        Raises:
            RegistryReadOnly: this client has no write permission.
            RegistryUnavailable: the registry does not respond.
        """
        try:
            self.call(request)
        except RegistryUnavailable as error:
            cause = error.__cause__
            if error_code(cause) in _INVALID_WRITE:
                return False
            if error_code(cause) == "PERMISSION_DENIED" or any(text in str(cause) for text in _READ_ONLY):
                raise RegistryReadOnly("the model registry denies the platform write access") from cause
            raise
        return True

    def _connected(self) -> MlflowClient:
        if self._client is None:
            for uri in self._uris:
                _require_reachable(uri)
            from mlflow import MlflowClient

            self._client = MlflowClient(*self._uris)
        return self._client


def error_code(error: BaseException | None) -> str | None:
    """Return the MLflow error code of an error, None for errors of other libraries."""
    return getattr(error, "error_code", None)


def _is_valid(name: str) -> bool:
    """Return whether MLflow accepts the name of a model. It rejects others with a code that has many meanings."""
    return bool(name.strip()) and not any(mark in name for mark in "/:") and name != "." and not name.startswith("..")


def _timeout_s() -> float:
    """Return the seconds that MLflow's own attempts and pauses may take, and a little more."""
    from mlflow import environment_variables as variables

    attempts = 1 + variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
    pauses: float = variables.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get() * 2 ** (attempts - 1)
    pauses += attempts * variables.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get()
    return float(attempts * variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() + pauses + _SLACK_S)


def _require_reachable(uri: str) -> None:
    """Connect once: MLflow retries a database for more than a minute, and a server for three times its timeout."""
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
