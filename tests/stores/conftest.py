"""Fixtures for real stores."""

from __future__ import annotations

import tempfile
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


@pytest.fixture
def database() -> Iterator[Postgres]:
    with open_folder() as folder, postgres.running(folder) as server:
        yield server
