"""Make registries, and run a real `mlflow server` once per session. `tests.conftest` imports the fixtures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

EmptyRegistry = Callable[[Path], Path]
"""Puts the database of an empty embedded registry into a folder and returns the folder."""


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> EmptyRegistry:
    """Copies of one database, because MLflow takes seconds to make the tables of each."""
    made = tmp_path_factory.mktemp("empty-registry") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy warns of what MLflow does
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(f"sqlite:///{made}").engine.dispose()

    def copy(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        shutil.copy(made, folder / "mlflow.db")
        return folder

    return copy


@pytest.fixture(scope="session")
def starting_server(
    tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Start an `mlflow server` that also serves artifacts. It takes more than ten seconds to become ready."""
    folder = empty_registry(tmp_path_factory.mktemp("mlflow-server"))
    address = f"http://127.0.0.1:{free_port()}"
    options = {
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination": str(folder / "artifacts"),
        "--host": "127.0.0.1",
        "--port": address.rpartition(":")[2],
        "--workers": "1",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,  # its workers end with it
        )
    try:
        yield address, server, folder / "log"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="session")
def mlflow_server(starting_server: tuple[str, subprocess.Popen[bytes], Path]) -> str:
    """Wait until the server responds and return its URL."""
    address, server, log = starting_server
    _wait_until_up(f"{address}/health", server, log)
    return address


def _wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")
