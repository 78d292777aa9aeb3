from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from app import demo
from app.adapters.mlflow.registry import configure
from app.demo import model
from app.errors import StartupError
from app.serving.features import FeatureQuery
from app.settings import Settings
from tests.conftest import environment_of_nobody

pytestmark = [
    # SQLAlchemy's pools close their connections when they are garbage-collected.
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

SEED_ROW = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}
SERVICE = FeatureQuery(view=None, service="commodity_price_service")


class Start(NamedTuple):
    """A first start in a process of its own: the home that it seeded, and what it said."""

    settings: Settings
    work: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def fresh_start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("demo")
    settings, work = Settings(home=folder / "home"), folder / "work"
    work.mkdir()
    code = (
        "from app import demo; from app.settings import Settings\n"
        f"assert demo.seed(Settings(home={str(settings.home)!r}), lambda line: print('>', line))"
    )
    with environment_of_nobody():
        environment = {**os.environ, "PYTHONPATH": str(Path(demo.__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
    return Start(settings, work, done)


@pytest.fixture(scope="module")
def seeded(fresh_start: Start) -> Settings:
    assert fresh_start.done.returncode == 0, fresh_start.done.stderr
    with environment_of_nobody():
        configure(fresh_start.settings)
    return fresh_start.settings


@pytest.fixture
def copied(seeded: Settings, tmp_path: Path) -> Settings:
    """Copy of the seeded home; its versions refer to the artifacts of the original."""
    home = shutil.copytree(seeded.home, tmp_path / "home")
    return Settings(home=home)


def client_of(settings: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.registry_uri)


def predict(settings: Settings, version: str, row: dict[str, float]) -> float:
    import mlflow

    source = client_of(settings).get_model_version_download_uri(demo.MODEL, version)
    return float(mlflow.pyfunc.load_model(source).predict(pd.DataFrame([row]))[0])


def read(settings: Settings, *names: str) -> dict[str, Any]:
    from app.adapters.feast.store import FeastStore

    folder = settings.feast_folder
    assert folder is not None
    return dict(FeastStore(folder).read(SERVICE, [{"commodity_id": name} for name in names]).columns)


def contents(home: Path) -> dict[Path, bytes]:
    return {path.relative_to(home): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_it_is_seeded_only_if_model_and_features_exist(copied: Settings, tmp_path: Path) -> None:
    assert demo.is_seeded(copied)
    assert not demo.is_seeded(copied.model_copy(update={"feast_repo": tmp_path}))
    (copied.demo_feast_repo / "feature_store.yaml").unlink()
    assert not demo.is_seeded(copied)
    assert not demo.is_seeded(Settings(home=tmp_path / "empty"))


def test_two_versions_have_aliases_descriptions_and_tags(seeded: Settings) -> None:
    client = client_of(seeded)
    model = client.get_registered_model("commodity_price_predictor")
    assert {alias: str(version) for alias, version in model.aliases.items()} == {"champion": "1", "challenger": "2"}
    assert "synthetic" in model.description
    versions = sorted(client.search_model_versions("name='commodity_price_predictor'"), key=lambda v: int(v.version))
    assert [version.tags["demo.estimator"] for version in versions] == ["linear", "gradient-boosted"]
    for version in versions:
        assert version.tags["feast.feature_service"] == "commodity_price_service"
        assert "synthetic" in version.description
        assert version.run_id


def test_the_champion_answers_the_seed_row_as_documented(seeded: Settings) -> None:
    assert round(predict(seeded, "1", SEED_ROW), 1) == 78.3


def test_the_challenger_is_another_model(seeded: Settings) -> None:
    assert predict(seeded, "2", SEED_ROW) == pytest.approx(77.7, abs=0.5)


def test_the_signature_and_the_example_match_the_seed_row(seeded: Settings) -> None:
    import mlflow

    for version in ("1", "2"):
        source = client_of(seeded).get_model_version_download_uri(demo.MODEL, version)
        metadata = mlflow.pyfunc.load_model(source).metadata
        columns = [
            (column["name"], column["type"], column["required"]) for column in metadata.signature.inputs.to_dict()
        ]
        assert columns == [(name, "double", True) for name in SEED_ROW]
        assert [column["type"] for column in metadata.signature.outputs.to_dict()] == ["double"]
        assert metadata.metadata["columns"]["crude_oil_price"]["unit"] == "USD per barrel"
        assert metadata.load_input_example(source.removeprefix("file://")).to_dict("records") == [SEED_ROW]


def test_no_pickle_is_written(seeded: Settings) -> None:
    names = {path.name for path in seeded.artifact_root.rglob("*") if path.is_file()}
    assert "model.skops" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_features_read_are_those_written_the_newest_ones(seeded: Settings, caplog: pytest.LogCaptureFixture) -> None:
    columns = read(seeded, *demo.COMMODITIES)
    assert caplog.text == ""  # nothing in the configuration that Feast warns of
    assert list(columns) == list(SEED_ROW)
    assert list(zip(*columns.values(), strict=True)) == list(demo.COMMODITIES.values())


def test_the_seed_entity_has_the_seed_row_as_features(seeded: Settings) -> None:
    assert {"crude_oil_wti", "crude_oil_brent", "natural_gas_henry_hub"} <= set(demo.COMMODITIES)
    assert read(seeded, "crude_oil_wti") == {name: [value] for name, value in SEED_ROW.items()}


def test_the_feature_view_and_service_have_documented_names(seeded: Settings) -> None:
    from feast import FeatureStore

    store = FeatureStore(str(seeded.feast_folder))
    view = store.get_feature_view("commodity_features")
    assert [feature.name for feature in view.features] == list(SEED_ROW)
    assert store.get_feature_service("commodity_price_service").tags == {"model": "commodity_price_predictor"}


def test_a_second_call_changes_nothing_and_imports_no_mlflow(copied: Settings) -> None:
    before = contents(copied.home)
    code = (
        "import sys; from app import demo; from app.settings import Settings\n"
        f"settings = Settings(home={str(copied.home)!r})\n"
        "assert not demo.seed(settings, lambda line: sys.exit(line))\n"
        "assert settings.feast_folder == settings.demo_feast_repo\n"
        "assert not {'mlflow', 'feast', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert contents(copied.home) == before


def test_what_the_user_did_with_the_model_stays(copied: Settings) -> None:
    client = client_of(copied)
    client.set_registered_model_alias(demo.MODEL, "champion", "2")
    client.delete_registered_model_alias(demo.MODEL, "challenger")
    client.delete_model_version(demo.MODEL, "1")
    assert not demo.seed(copied, lambda line: None)
    model = client.get_registered_model(demo.MODEL)
    assert {alias: str(version) for alias, version in model.aliases.items()} == {"champion": "2"}


def test_a_registration_that_was_cut_short_is_completed(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(copied)
    client.delete_registered_model(demo.MODEL)
    log_version = model._log_version

    def linear_only(*args: Any) -> Any:
        if args[-1]["demo.estimator"] != "linear":
            raise OSError("disk full")
        return log_version(*args)

    monkeypatch.setattr(model, "_log_version", linear_only)
    with pytest.raises(StartupError, match="cannot be registered: OSError: disk full"):
        demo.seed(copied, lambda line: None)
    monkeypatch.undo()
    assert demo.seed(copied, lambda line: None)
    versions = {str(v.version): v.tags["demo.estimator"] for v in client.search_model_versions(f"name='{demo.MODEL}'")}
    assert versions == {"1": "linear", "2": "gradient-boosted"}
    aliases = client.get_registered_model(demo.MODEL).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "challenger": "2"}
    assert not demo.seed(copied, lambda line: None)


@pytest.mark.parametrize("lost", ["online_store.db", "registry.db", "feature_store.yaml", "."])
def test_features_that_are_not_complete_are_made_again(copied: Settings, lost: str) -> None:
    folder = copied.demo_feast_repo
    shutil.rmtree(folder) if lost == "." else (folder / lost).unlink()
    lines: list[str] = []
    assert demo.seed(copied, lines.append)
    assert len(lines) == 1
    assert read(copied, "crude_oil_wti") == {name: [value] for name, value in SEED_ROW.items()}
    assert sorted(path.name for path in copied.home.glob("feast*")) == ["feast"]


def test_a_repository_that_the_user_changed_is_not_overwritten(copied: Settings) -> None:
    (copied.demo_feast_repo / "features.py").write_text("# mine\n")
    assert not demo.seed(copied, lambda line: None)
    (copied.demo_feast_repo / "registry.db").unlink()
    with pytest.raises(StartupError, match=r"features\.py is not the demo's"):
        demo.seed(copied, lambda line: None)
    assert (copied.demo_feast_repo / "features.py").read_text() == "# mine\n"


def test_a_foreign_feature_store_is_left_alone(copied: Settings, tmp_path: Path) -> None:
    shutil.rmtree(copied.demo_feast_repo)
    lines: list[str] = []
    settings = Settings(home=copied.home, feast_repo=tmp_path / "theirs")
    assert not demo.seed(settings, lines.append)
    assert settings.feast_folder != settings.demo_feast_repo
    assert "theirs" in lines[0]
    assert not (tmp_path / "theirs").exists()
    assert not copied.demo_feast_repo.exists()


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_foreign_model_of_that_name_is_left_alone(
    copied: Settings, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    client = client_of(copied)
    client.delete_registered_model(demo.MODEL)
    client.create_registered_model(demo.MODEL, tags={"owner": "desk"})
    if not is_seen:  # as on a server that wants a password, which only MLflow knows
        monkeypatch.setattr("app.demo.seeding.has_model", lambda uri: False)
    assert not demo.seed(copied, lambda line: None)
    assert client.search_model_versions(f"name='{demo.MODEL}'") == []


def test_another_default_alias_names_the_first_version(copied: Settings) -> None:
    client = client_of(copied)
    client.delete_registered_model(demo.MODEL)
    settings = Settings(home=copied.home, default_alias="challenger")
    assert demo.seed(settings, lambda line: None)
    aliases = client.get_registered_model(demo.MODEL).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"challenger": "1"}


def test_a_database_that_is_not_one_of_mlflow_is_no_demo(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE notes (text TEXT)")
    assert not model.has_model(f"sqlite:///{tmp_path}/mlflow.db")
    assert not model.has_model(f"sqlite:///{tmp_path}/absent.db")
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.slow
def test_a_fresh_start_prints_progress_and_stays_in_its_home(fresh_start: Start) -> None:
    assert fresh_start.done.stderr == ""
    assert [line[:1] for line in fresh_start.done.stdout.splitlines()] == [">", ">"]
    assert list(fresh_start.work.iterdir()) == []
