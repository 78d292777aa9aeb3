"""Which versions the loader hands to worker processes, and with which libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import EnvironmentMissing, ModelUnavailable
from app.serving.references import ModelVersion
from app.settings import EnvironmentSettings, Settings
from tests.clashing import environmental_model, factor_model, ship
from tests.conftest import environment_of_nobody
from tests.mlflow_server import EmptyRegistry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    from app.adapters.mlflow.environments import Environment
    from app.adapters.mlflow.loaded_model import LoadedModel, read_model
    from app.adapters.mlflow.loader import ModelLoader
    from app.adapters.mlflow.memory import MemoryGrowth

pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN, TWO, HUNDRED, CHANGING, PINNED = (
    ModelVersion(name, "1") for name in ("plain", "two", "hundred", "changing", "pinned")
)


class WorkersHere:
    """Records what would be loaded in which worker, and loads it in this process, apart from the code it ships."""

    def __init__(self) -> None:
        self.loads: list[tuple[ModelVersion, Environment, Path | None]] = []
        self.ended: list[Callable[[], None]] = []

    def load(
        self,
        version: ModelVersion,
        folder: Path,
        environment: Environment,
        overlay: Path | None,
        ended: Callable[[], None],
    ) -> LoadedModel:
        self.loads.append((version, environment, overlay))
        model = read_model(version, folder, MemoryGrowth(), alone=environment.version is not None)
        self.ended.append(ended)
        return model


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry) -> Settings:
    import mlflow

    settings = Settings(home=empty_registry(tmp_path_factory.mktemp("home")))
    code = tmp_path_factory.mktemp("code")
    logged: dict[ModelVersion, dict[str, Any]] = {
        PLAIN: {"python_model": factor_model()},
        TWO: {"python_model": factor_model(), "code_paths": [str(ship(code / "2", 2))]},
        HUNDRED: {"python_model": factor_model(), "code_paths": [str(ship(code / "100", 100))]},
        CHANGING: {"python_model": environmental_model(5)},
        PINNED: {"python_model": factor_model(), "pip_requirements": ["absent-library==1.0"]},
    }
    with environment_of_nobody(), warnings.catch_warnings(record=True):
        configure(settings)
        experiment = mlflow.create_experiment("isolation", artifact_location=settings.artifact_root.as_uri())
        for version, arguments in logged.items():
            with mlflow.start_run(experiment_id=experiment):
                given = {"pip_requirements": [], **arguments}
                info = mlflow.pyfunc.log_model(name="model", **given)
            mlflow.register_model(info.model_uri, version.name)
    return settings


def loader(settings: Settings, cache: Path, workers: WorkersHere, **changed: Any) -> ModelLoader:
    environments = EnvironmentSettings(**changed)
    return ModelLoader(MlflowRegistry(settings), cache, workers=workers, environments=environments)


def test_versions_that_ship_code_get_workers(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    models = loader(settings, tmp_path, workers)
    for version in (PLAIN, TWO, HUNDRED, TWO):
        models.load(version)
    assert [version for version, _, _ in workers.loads] == [TWO, HUNDRED, TWO]
    two, hundred, again = (environment.key for _, environment, _ in workers.loads)
    assert two == again != hundred
    assert [overlay for _, _, overlay in workers.loads] == [None] * 3


def test_a_version_that_changes_the_process_gets_one_alone(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    models = loader(settings, tmp_path, workers)
    models.load(CHANGING)
    ((version, environment, _),) = workers.loads
    assert (version, environment.version) == (CHANGING, CHANGING)
    assert environment.reason == "it changes environment variables when it is loaded"
    models.load(CHANGING)  # known by now: not loaded into this process first
    assert len(workers.loads) == 2


def test_a_missing_environment_is_built_before_the_load(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    models = loader(settings, tmp_path, workers, build="never")
    with pytest.raises(EnvironmentMissing, match=r"it requires absent-library==1.0 \(not installed\)"):
        models.load(PINNED)
    with pytest.raises(ModelUnavailable, match=r"pinned/versions/1 cannot be loaded: it requires absent-library==1.0"):
        models.build(PINNED)
    assert workers.loads == []


def test_a_mismatch_may_be_ignored_or_refused(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    loader(settings, tmp_path, workers, mismatch="warn").load(PINNED)
    assert workers.loads == []
    with pytest.raises(ModelUnavailable, match=r"it requires absent-library==1\.0"):
        loader(settings, tmp_path, workers, mismatch="refuse").load(PINNED)


@pytest.mark.parametrize("isolate", ["python", "all"])
def test_more_versions_may_be_isolated(settings: Settings, tmp_path: Path, isolate: str) -> None:
    workers = WorkersHere()
    loader(settings, tmp_path, workers, isolate=isolate).load(PLAIN)
    ((_, environment, _),) = workers.loads
    assert environment.version == PLAIN


def test_artifacts_stay_until_their_worker_has_ended(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    model: Any = loader(settings, tmp_path, workers).load(TWO)
    del model
    other = ModelLoader(MlflowRegistry(settings), tmp_path, 1)
    other.load(PLAIN)
    assert (tmp_path / "two" / "1" / "artifacts" / "MLmodel").exists()
    workers.ended.pop()()
    with suppress(ModelUnavailable):
        other.load(CHANGING)
    assert not (tmp_path / "two" / "1").exists()


def test_a_harmful_version_gets_a_worker_until_its_pardon(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    models = loader(settings, tmp_path, workers)
    models.load(PLAIN)
    models.isolate(PLAIN, "its process died during a prediction")
    models.load(PLAIN)
    ((version, environment, _),) = workers.loads
    assert (version, environment.version, environment.reason) == (PLAIN, PLAIN, "its process died during a prediction")
    models.reunite(PLAIN)
    models.load(PLAIN)
    assert len(workers.loads) == 1


def test_every_version_of_a_tagged_model_gets_a_worker(settings: Settings, tmp_path: Path) -> None:
    workers = WorkersHere()
    models = loader(settings, tmp_path, workers)
    models.isolate_models(frozenset({"plain"}))
    models.load(PLAIN)
    ((_, environment, _),) = workers.loads
    assert environment.reason == "its tag serving.isolation is process"
    models.isolate_models(frozenset())
    models.load(PLAIN)
    assert len(workers.loads) == 1
