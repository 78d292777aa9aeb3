"""What `ml-serve up` looks at before it starts, where the registry does not answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.errors import StartupError
from app.settings import Settings
from app.up import preparation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:1")


def test_with_a_snapshot_it_starts_without_the_registry(settings: Settings) -> None:
    settings.cache_folder.mkdir(parents=True)
    settings.snapshot_file.write_text(json.dumps({"models": [{"name": "prices"}]}))
    with preparation(settings, demo=True) as prepared:
        (line,) = prepared.result()
    assert "does not answer" in line
    assert f"serving the last known state from {settings.cache_folder}" in line


@pytest.mark.parametrize("snapshot", [None, "", "[]", '{"models": []}'])
def test_without_a_snapshot_a_dead_registry_stops_the_start(settings: Settings, snapshot: str | None) -> None:
    if snapshot is not None:
        settings.cache_folder.mkdir(parents=True)
        settings.snapshot_file.write_text(snapshot)
    with pytest.raises(StartupError, match="does not answer"), preparation(settings, demo=False) as prepared:
        prepared.result()
