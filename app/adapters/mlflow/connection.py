"""The connection to an MLflow registry: calls that end, errors that say who is at fault, and nothing taken on trust.

`MlflowRegistry` asks through it. What stands between a client and its registry may answer in the registry's place, with
status 200 at that: only what a registry alone can say counts as its word.
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

_CONNECT_S = 3.0  # until a registry that accepts no connection is called unreachable
_SLACK_S = 3.0  # beyond what MLflow's own timeouts and pauses add up to
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_REFUSED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
_NOT_TAKEN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_READ_ONLY = ("attempt to write a readonly database", "read-only transaction", "permission denied for")
"""What SQLite and PostgreSQL say to a write that they refuse, the last with a table; a server passes it on."""

T = TypeVar("T")


class RegistryConnection:
    """Connects with the first call; may be used from many threads.

    Args:
        tracking_uri: MLflow's, which says where artifacts are that a version names by their run.
        registry_uri: where the registered models are.
    """

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        self._uris = (tracking_uri, registry_uri)
        self._is_local = all(uri.startswith("sqlite:") for uri in self._uris)
        self._calls = BoundedCalls()
        self._client: MlflowClient | None = None

    def answer(self, call: Callable[[MlflowClient], T]) -> T:
        """The registry's answer to what it must be able to answer. `RegistryUnavailable` where there is none."""
        try:
            if self._is_local:  # a file has no way of hanging, and is made with the first call, which takes a while
                return call(self._connected())
            return self._calls.run(lambda: call(self._connected()), _patience_s())
        except ServingError:
            raise
        except Exception as error:  # of MLflow, SQLAlchemy, requests, or of a plug-in's store
            if code_of(error) in _REFUSED:
                raise RegistryUnavailable("the model registry refuses this client: check its credentials") from error
            raise RegistryUnavailable("the model registry does not answer") from error

    def find(self, name: str, call: Callable[[MlflowClient], T]) -> T | None:
        """The registry's answer; None where it says of this very model that it, or what is asked of it, is not there.

        "Does not exist" alone is not enough: a server says so of a workspace that it does not know, too.
        """
        if not _is_possible(name):
            return None
        try:
            return self.answer(call)
        except RegistryUnavailable as error:
            if code_of(error.__cause__) == "RESOURCE_DOES_NOT_EXIST" and name in str(error.__cause__):
                return None
            raise

    def write(self, call: Callable[[MlflowClient], object]) -> bool:
        """Change something; False where the registry says that there is no such thing, or can be none.

        Raises:
            RegistryReadOnly: this client may not write.
            RegistryUnavailable: there is no answer.
        """
        try:
            self.answer(call)
        except RegistryUnavailable as error:
            cause = error.__cause__
            if code_of(cause) in _NOT_TAKEN:
                return False
            if code_of(cause) == "PERMISSION_DENIED" or any(text in str(cause) for text in _READ_ONLY):
                raise RegistryReadOnly("the model registry does not let the platform write to it") from cause
            raise
        return True

    def _connected(self) -> MlflowClient:
        if self._client is None:
            for uri in self._uris:
                _reach(uri)
            from mlflow import MlflowClient

            self._client = MlflowClient(*self._uris)
        return self._client


def code_of(error: BaseException | None) -> str | None:
    """MLflow's code of an error, None of others' errors."""
    return getattr(error, "error_code", None)


def _is_possible(name: str) -> bool:
    """Whether a model can have the name. MLflow answers others with an error that it has for much else as well."""
    return bool(name.strip()) and not any(mark in name for mark in "/:") and name != "." and not name.startswith("..")


def _patience_s() -> float:
    """Seconds that an answer may take: a little more than MLflow's tries with their pauses."""
    from mlflow import environment_variables as variables

    tries = 1 + variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
    pauses: float = variables.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get() * 2 ** (tries - 1)
    pauses += tries * variables.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get()
    return float(tries * variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() + pauses + _SLACK_S)


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
