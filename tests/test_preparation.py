"""What `ml-serve up` looks at before it starts, where the registry does not answer."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

import app.preparation
from app.errors import StartupError
from app.preparation import preparation
from app.settings import Settings
from tests.conftest import environment_of_nobody


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:1")


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.fixture
def _one_process(process: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare in one process for all tests, because each new one imports MLflow, which takes seconds."""
    monkeypatch.setattr(app.preparation, "ProcessPoolExecutor", lambda *_, **__: nullcontext(process))


@pytest.mark.usefixtures("_one_process")
def test_with_a_snapshot_it_starts_without_the_registry(settings: Settings) -> None:
    settings.cache_folder.mkdir(parents=True)
    settings.snapshot_file.write_text(json.dumps({"models": [{"name": "prices"}]}))
    with preparation(settings, demo=True) as prepared:
        (line,) = prepared.result()
    assert "does not answer" in line
    assert f"serving the last known state from {settings.cache_folder}" in line


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("snapshot", [None, "", "[]", '{"models": []}'])
def test_without_a_snapshot_a_dead_registry_stops_the_start(settings: Settings, snapshot: str | None) -> None:
    if snapshot is not None:
        settings.cache_folder.mkdir(parents=True)
        settings.snapshot_file.write_text(snapshot)
    with pytest.raises(StartupError, match="does not answer"), preparation(settings, demo=False) as prepared:
        prepared.result()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home after its first start."""
    settings = Settings(home=tmp_path_factory.mktemp("embedded"))
    with environment_of_nobody(), preparation(settings, demo=True) as prepared:
        prepared.result()
    return settings


def test_the_next_start_has_nothing_to_do(embedded: Settings) -> None:
    for demo in (True, False):
        with preparation(embedded, demo=demo) as prepared:
            assert prepared.done()


def test_what_another_version_has_checked_is_checked_again(embedded: Settings) -> None:
    checked = embedded.home / "checked.json"
    before = json.loads(checked.read_bytes())
    checked.write_text(json.dumps({**before, "mlflow": "0"}))
    with preparation(embedded, demo=True) as prepared:
        assert not prepared.done()
        assert prepared.result() == []
    assert json.loads(checked.read_bytes()) == before


def test_a_broken_registry_is_checked_again(embedded: Settings) -> None:
    (embedded.home / "mlflow.db").write_bytes(b"no database")
    with pytest.raises(StartupError, match="registry"), preparation(embedded, demo=False) as prepared:
        prepared.result()
