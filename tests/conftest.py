"""The platform for tests marked `ray`: started once a session, with models of every kind in its registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import prometheus_client  # noqa: F401 - before Feast, which turns on its multi-process mode: registries would share values
import pytest
from xdist.scheduler import LoadFileScheduling

from app.settings import environment_names
from tests.connect import connect
from tests.mlflow_server import empty_registry, mlflow_server, starting_server
from tests.platform import DEMO, URL, Platform, leftovers

__all__ = ["connect", "empty_registry", "mlflow_server", "starting_server"]  # fixtures of all tests

# How long an example takes says nothing of the code, least of all in a fresh clone, where Hypothesis spends a second on
# its tables of Unicode.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@contextmanager
def environment_of_nobody() -> Iterator[None]:
    """No setting comes in from outside, and none stays behind: MLflow exports the addresses that it is given."""
    before = dict(os.environ)
    for name, _ in environment_names():
        os.environ.pop(name, None)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # Feast's, set when it is imported
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def _environment_of_the_module() -> Iterator[None]:
    with environment_of_nobody():
        yield


@pytest.fixture(autouse=True)
def _environment_of_the_test() -> Iterator[None]:
    with environment_of_nobody():
        yield


_WITH_MLFLOW_SERVER = (
    "tests/adapters/mlflow/test_hostile_registry.py",
    "tests/adapters/mlflow/test_registry.py",
    "tests/faults/test_registry_outage.py",
)
"""One process runs them all, because the server takes more than ten seconds to start."""

_FIRST = (
    "tests/stores/",
    *_WITH_MLFLOW_SERVER,
    "tests/test_preparation.py",
    "tests/test_demo.py",
    "tests/adapters/mlflow/test_loader.py",
    "tests/api/system/test_docs_browser.py",
)
"""Quick tests that take long. At the end, one process would be left alone with them."""

_LAST = ("tests/test_up.py", "tests/faults/")
"""Tests that leave the session's platform stopped. Each start takes half a minute."""


class FilesAndGroups(LoadFileScheduling):  # type: ignore[misc]  # untyped
    """Gives files to processes as `--dist loadfile` does, and those that share the MLflow server to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        path = str(super()._split_scope(nodeid))
        return "with MLflow's server" if path in _WITH_MLFLOW_SERVER else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Replace the scheduler of `--dist loadfile`."""
    return FilesAndGroups(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quick tests that take long at the beginning, and the tests that stop the platform at the end."""

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("ray") is None:
            found = (number for number, path in enumerate(_FIRST) if item.nodeid.startswith(path))
            return next(found, len(_FIRST)) - len(_FIRST)
        return next((number for number, path in enumerate(_LAST, 1) if item.nodeid.startswith(path)), 0)

    items.sort(key=place)  # stable
    for item in items:  # in the other half of the suite it would start a second platform beside the first
        if {"platform", "faulty"} & {*getattr(item, "fixturenames", ())} and item.get_closest_marker("ray") is None:
            raise pytest.UsageError(f"{item.nodeid} uses a platform, so it needs the mark `ray`")


RUNNING: list[Platform] = []
"""The session's platform, once a test has needed it."""


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """What `make serve` starts, on its default ports, with the models of `tests.registered` beside the demo's."""
    from tests.registered import register

    assert leftovers() == [], "another Ray runs on this machine: stop it first"
    folder = tmp_path_factory.mktemp("platform")
    platform = Platform(folder / "home", folder / "log")
    register(platform.home)
    platform.start()
    RUNNING.append(platform)
    yield platform
    if platform.running:
        platform.stop()


@pytest.fixture
def demo_as_before(platform: Platform) -> Iterator[None]:
    """For tests that move the demo's aliases or divide its calls: all others know what it answers."""
    from ml_serve_client import Client

    yield
    with Client(URL) as client:
        client.set_traffic(DEMO, {}, shadow=None)
        client.promote(DEMO, 1)
        client.promote(DEMO, 2, alias="challenger")
        model = client.model(DEMO)
    assert (model.aliases["champion"], model.aliases["challenger"], model.traffic, model.shadow) == ("1", "2", {}, None)
