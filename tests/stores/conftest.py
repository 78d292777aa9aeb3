"""Fixtures for real stores."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.stores import ceph, postgres
from tests.stores.ceph import S3
from tests.stores.postgres import Postgres


@contextmanager
def open_folder() -> Iterator[Path]:
    """Create a folder with a short path that every user can read, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="stores-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with open_folder() as folder, ceph.running(folder) as server:
        yield server


@pytest.fixture(scope="session")
def with_tables() -> Iterator[Path]:
    """Folder of a server with MLflow's tables, because it takes seconds to make them."""
    with open_folder() as folder:
        with postgres.running(folder) as server, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy warns of what MLflow does
            from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

            SqlAlchemyStore(server.uri()).engine.dispose()
        yield folder


@pytest.fixture
def database(with_tables: Path) -> Iterator[Postgres]:
    with open_folder() as folder, postgres.running(folder, with_tables) as server:
        yield server
