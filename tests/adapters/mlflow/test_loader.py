"""Load versions from a real registry through the cache, with and without the registry."""

from __future__ import annotations

import gc
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, ParamSpec
from sklearn.linear_model import LinearRegression
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import InvalidInput, ModelFailed, ModelNotFound, ModelUnavailable, RegistryUnavailable
from app.serving.batching_contract import ONE_OBJECT, BatchingContract
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, stack
from app.serving.signatures.signature import Signature
from app.settings import Settings
from tests.conftest import environment_of_nobody
from tests.contract import test_model_parity as parity
from tests.contract.chat_models import MODELS
from tests.contract.mlflow_models import hinted
from tests.mlflow_server import EmptyRegistry
from tests.server import Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    from app.adapters.mlflow import loaded_model, row_wise
    from app.adapters.mlflow.loader import ModelLoader

pytestmark = pytest.mark.filterwarnings("ignore")

FOREST, RAISING, BROKEN, MOMENTS = (ModelVersion(name, "1") for name in ("forest", "raising", "broken", "moments"))
LAYOUT = Layout("columns", ("a", "b", "c"), ("float64",) * 3, ((),) * 3)


def raise_always(data: object, params: object) -> object:
    raise ValueError("on purpose")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry) -> Iterator[Settings]:
    import mlflow

    settings = Settings(home=empty_registry(tmp_path_factory.mktemp("home")))
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with environment_of_nobody(), warnings.catch_warnings(record=True):
        configure(settings)
        experiment = mlflow.create_experiment("loader", artifact_location=settings.artifact_root.as_uri())
        models: dict[str, Callable[[], Any]] = {
            "forest": parity.log_forest,
            "raising": parity.log_python(raise_always, None),
            "moments": hinted(list[datetime]),
            "broken": parity.log_lightgbm,
            "agent": lambda: mlflow.pyfunc.log_model(name="m", python_model=MODELS["agent"](), pip_requirements=[]),
            "silent": lambda: mlflow.pyfunc.log_model(name="m", python_model=MODELS["silent"](), pip_requirements=[]),
        }
        for name, log in models.items():
            with mlflow.start_run(experiment_id=experiment):
                info = log()
            mlflow.register_model(info.model_uri, name)
    (model,) = settings.artifact_root.rglob("model.lgb")
    model.write_bytes(b"no model")
    yield settings
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def test_a_type_hint_validates_and_reads_text_in_json(settings: Settings, tmp_path: Path) -> None:
    model = loader(settings, tmp_path).load(MOMENTS)
    signature = Signature.compile(model.spec.inputs, hinted=model.spec.hinted)
    output = model.predict(stack([signature.rows("inputs", ["2024-01-01"])]))
    assert output.arrays[0].tolist() == ["datetime.datetime(2024, 1, 1, 0, 0)"]
    with pytest.raises(InvalidInput, match="item 1 is 'x'; the model takes list"):
        model.predict(stack([signature.rows("inputs", ["2024-01-01", "x"])]))


def loader(settings: Settings, cache: Path) -> ModelLoader:
    return ModelLoader(MlflowRegistry(settings), cache)


def test_a_loaded_version_has_a_full_spec(settings: Settings, tmp_path: Path) -> None:
    model = loader(settings, tmp_path).load(FOREST)
    assert (model.spec.name, model.spec.version, model.spec.flavor) == ("forest", "1", "sklearn")
    assert [column["name"] for column in model.spec.inputs or ()] == ["a", "b", "c"]
    assert model.spec.nbytes > 0
    output = model.predict(Batch(LAYOUT, tuple(np.ones((3, 4))), 4))
    assert (output.count, output.arrays[0].shape) == (4, (4, 2))


def test_a_model_that_only_computes_is_proven_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[str] = []
    examine = row_wise.examine

    def examined(model: Any, flavor: str, folder: Path) -> BatchingContract:
        proofs.append(flavor)
        return examine(model, flavor, folder)

    monkeypatch.setattr(row_wise, "examine", examined)
    once = ModelLoader(MlflowRegistry(settings), tmp_path)
    batch = Batch(LAYOUT, tuple(np.random.default_rng(1).random((3, 40))), 40)
    for version, expected in ((FOREST, ["sklearn"]), (RAISING, ["python_function"] * 3)):
        models = [once.load(version) for _ in range(3)]
        assert proofs == expected
        proofs.clear()
        assert len({id(model) for model in models}) == 3
        first, *again = [replace(model.spec, load_ms=0.0) for model in models]
        assert again == [first, first]
        assert [model.problem for model in models] == [models[0].problem] * 3
        bodies = [b'{"inputs": {"a": [1.0], "b": [2.0], "c": [3.0]}}', b'{"inputs": {"a": ["x"]}}']
        first_answers, *further = [[answered(model, body) for body in bodies] for model in models]
        assert further == [first_answers, first_answers]
    first, *again = [once.load(FOREST).predict(batch).arrays[0].tolist() for _ in range(3)]
    assert again == [first, first]


def log_with_example(line: LinearRegression, example: pd.DataFrame, **further: Any) -> Any:
    """Log with requirements, because MLflow would otherwise load the model in another process to infer them."""
    import mlflow

    listed = mlflow.sklearn.get_default_pip_requirements(include_cloudpickle=True)
    return mlflow.sklearn.log_model(line, name="m", input_example=example, pip_requirements=listed, **further)


def test_a_version_with_a_large_example_is_not_remembered(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_model, "_LARGE_EXAMPLE", 10)
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    line = LinearRegression().fit(frame, [1.0, 2.0])
    version = registered("exemplary", lambda: log_with_example(line, frame))
    once = ModelLoader(MlflowRegistry(settings), tmp_path)
    first, again = once.load(version), once.load(version)
    assert not once._known
    assert (first.spec.input_example, first.spec.batching) == (again.spec.input_example, again.spec.batching)


@pytest.mark.parametrize("kind", ["pickle", "cloudpickle", "skops"])
def test_a_model_of_scikit_learn_is_read_again_in_every_format(kind: str, settings: Settings, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    line = LinearRegression().fit(frame, [1.0, 3.0])

    once = ModelLoader(MlflowRegistry(settings), tmp_path)
    version = registered(f"as-{kind}", lambda: log_with_example(line, frame, serialization_format=kind))
    batch = Batch(Layout("columns", ("x",), ("float64",), ((),)), (np.array([1.5, 4.0]),), 2)
    answers = [once.load(version).predict(batch).arrays[0].tolist() for _ in range(2)]
    assert once._known
    assert answers[0] == answers[1] == line.predict(pd.DataFrame({"x": [1.5, 4.0]})).tolist()


def answered(model: Any, body: bytes) -> Any:
    try:
        return model.invoke(body)
    except (InvalidInput, ModelFailed) as error:
        return type(error), error.message


def test_another_model_of_the_same_name_is_proven_again(settings: Settings, tmp_path: Path) -> None:
    import mlflow

    once = ModelLoader(MlflowRegistry(settings), tmp_path)
    version = registered("renewed", parity.log_forest)
    assert once.load(version).spec.batching.basis == "flavor"
    mlflow.MlflowClient().delete_registered_model("renewed")
    once.forget("renewed")
    line = LinearRegression().fit(pd.DataFrame({"x": [1.0, 2.0]}), [1.0, 2.0])
    example = pd.DataFrame({"x": [1.0, 2.0]})
    registered("renewed", lambda: log_with_example(line, example))
    model = once.load(version)
    assert model.spec.batching.basis == "proven"
    assert model.predict(Batch(Layout("columns", ("x",), ("float64",), ((),)), (np.array([2.0]),), 1)).count == 1


def test_a_chat_model_takes_json_and_is_not_batched(settings: Settings, tmp_path: Path) -> None:
    agent, silent, forest = (
        loader(settings, tmp_path).load(ModelVersion(name, "1")).spec for name in ("agent", "silent", "forest")
    )
    assert [spec.takes_json for spec in (agent, silent, forest)] == [True, True, False]
    assert [spec.streams for spec in (agent, silent, forest)] == [True, False, False]
    assert [spec.batching == ONE_OBJECT for spec in (agent, silent, forest)] == [True, True, False]
    assert agent.input_example is not None


def answer_with_two_params(data: Any, params: Any) -> Any:
    return [params["low"] + params["high"]] * len(data)


def refuse_twelve(data: Any, params: Any) -> Any:
    if (data["x"] == 12).any():
        raise ValueError("twelve, says /secret/path")
    return data["x"]


def registered(name: str, log: Callable[[], Any]) -> ModelVersion:
    """Register a model that `log` logs and return its version."""
    import mlflow

    experiment = mlflow.get_experiment_by_name("loader").experiment_id
    with warnings.catch_warnings(record=True), mlflow.start_run(experiment_id=experiment):
        info = log()
    return ModelVersion(name, str(mlflow.register_model(info.model_uri, name).version))


def test_a_model_that_rejects_its_example_has_a_problem(settings: Settings, tmp_path: Path) -> None:
    x = [ColSpec("double", "x")]
    good, bad = (
        registered(name, parity.log_python(refuse_twelve, x, example=pd.DataFrame({"x": [value]})))
        for name, value in (("good", 11.0), ("bad", 12.0))
    )
    assert loader(settings, tmp_path).load(good).problem is None
    model = loader(settings, tmp_path).load(bad)
    assert model.problem == ("it does not predict its own input example: it raised ValueError; the log has the cause")
    assert model.predict(Batch(Layout("columns", ("x",), ("float64",), ((),)), (np.ones(2),), 2)).count == 2


def test_an_example_is_predicted_with_its_params(settings: Settings, tmp_path: Path) -> None:
    params = [ParamSpec(name, "long", None) for name in ("low", "high")]
    example = (pd.DataFrame({"x": [11.0]}), {"low": 1, "high": 2})
    log = parity.log_python(answer_with_two_params, [ColSpec("double", "x")], params, example)
    version = registered("with-params", log)
    assert loader(settings, tmp_path).load(version).problem is None


def test_metadata_that_is_no_json_is_ignored(settings: Settings, tmp_path: Path) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    columns = {"a": {"unit": "USD per barrel"}}
    log = partial(
        mlflow.sklearn.log_model,
        LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]),
        name="noted",
        metadata={"columns": columns, "rate": float("nan")},
        pip_requirements=[],
    )
    noted = registered("noted", log)
    assert loader(settings, tmp_path).load(noted).spec.metadata == {"columns": columns}


def test_without_the_registry_only_cached_versions_load(settings: Settings, tmp_path: Path) -> None:
    loader(settings, tmp_path).load(FOREST)
    gone = Settings(home=settings.home, mlflow_tracking_uri="http://127.0.0.1:1")
    assert loader(gone, tmp_path).load(FOREST).spec.flavor == "sklearn"
    with pytest.raises(RegistryUnavailable, match="not cached"):
        loader(gone, tmp_path).load(RAISING)


def test_cached_loads_skip_a_registry_that_just_failed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (FOREST, RAISING):
        loader(settings, tmp_path).load(version)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked: list[str] = []

    async def out_of_order(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await Response("out of order", 503)(scope, receive, send)

    with Server(out_of_order) as server:
        models = loader(Settings(home=settings.home, mlflow_tracking_uri=server.url), tmp_path)
        models.load(FOREST)
        assert len(asked) == 1
        for version in (RAISING, FOREST, RAISING):
            models.load(version)
        assert len(asked) == 1
        with pytest.raises(RegistryUnavailable, match="not cached"):  # which cannot do without
            models.load(BROKEN)
        assert len(asked) == 2


def test_without_the_registry_a_forgotten_model_does_not_load(settings: Settings, tmp_path: Path) -> None:
    class Registry(MlflowRegistry):
        is_down = False

        def identity(self, version: ModelVersion) -> str:
            if self.is_down:
                raise RegistryUnavailable("down")
            return super().identity(version)

    registry = Registry(settings)
    models = ModelLoader(registry, tmp_path)
    models.load(FOREST)
    registry.is_down = True
    models.load(FOREST)
    models.forget("forest")
    with pytest.raises(RegistryUnavailable, match="not cached"):
        models.load(FOREST)
    registry.is_down = False
    models.load(FOREST)


def test_a_cached_copy_older_than_its_model_does_not_load(settings: Settings, tmp_path: Path) -> None:
    registry = MlflowRegistry(settings)
    ModelLoader(registry, tmp_path).load(FOREST)
    created = registry.model("forest").created
    gone = loader(Settings(home=settings.home, mlflow_tracking_uri="http://127.0.0.1:1"), tmp_path)
    gone.expect({"forest": created})
    gone.load(FOREST)
    gone.expect({"forest": created + 86_400_000})
    with pytest.raises(RegistryUnavailable, match="not cached"):
        gone.load(FOREST)


def test_artifacts_are_not_evicted_while_their_model_is_loaded(settings: Settings, tmp_path: Path) -> None:
    model: Model | None = ModelLoader(MlflowRegistry(settings), tmp_path, 1).load(FOREST)
    other = ModelLoader(MlflowRegistry(settings), tmp_path, 1)
    other.load(RAISING)
    assert (tmp_path / "forest" / "1" / "artifacts" / "MLmodel").exists()
    assert model is not None
    model = None
    gc.collect()
    with pytest.raises(ModelUnavailable):  # after its download
        other.load(BROKEN)
    assert not (tmp_path / "forest" / "1").exists()


def test_a_full_disk_is_named_in_the_error(settings: Settings, small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(b"x" * 990_000)
    with pytest.raises(ModelUnavailable, match="the disk of the artifact cache is full"):
        loader(settings, small_disk / "cache").load(FOREST)


def test_the_registry_is_asked_again_only_after_forget(settings: Settings, tmp_path: Path) -> None:
    class Counting(MlflowRegistry):
        asked = 0

        def identity(self, version: ModelVersion) -> str:
            self.asked += 1
            return super().identity(version)

    registry = Counting(settings)
    models = ModelLoader(registry, tmp_path)
    for _ in range(3):
        models.load(FOREST)
    models.forget("other")
    models.load(FOREST)
    assert registry.asked == 1
    models.forget("forest")
    models.load(FOREST)
    assert registry.asked == 2


def test_a_model_with_its_own_code_leaves_its_cached_copy_intact(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "pricing_rules.py").write_text("def double(data):\n    return data * 2\n")

    def by_its_code(data: Any, params: Any) -> Any:
        from pricing_rules import double  # type: ignore[import-not-found]

        return double(data["x"])

    x = pd.DataFrame({"x": [1.0]})
    code = [str(tmp_path / "code" / "pricing_rules.py")]
    log = parity.log_python(by_its_code, [ColSpec("double", "x")], example=x, code_paths=code)
    version = registered("with-code", log)
    for compiled in [*settings.artifact_root.rglob("__pycache__")]:  # of its prediction while it was logged
        shutil.rmtree(compiled)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for _ in range(2):
        sys.modules.pop("pricing_rules", None)
        models = loader(settings, tmp_path / "cache")
        assert models.load(version).problem is None
        models.load(version)
    assert (models.cache_counts.hits, models.cache_counts.damaged) == (2, 0)


def test_a_missing_version_is_not_found(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        loader(settings, tmp_path).load(ModelVersion("forest", "9"))


def test_a_deleted_version_leaves_the_cache(settings: Settings, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    version = registered("doomed", parity.log_forest)
    models = loader(settings, tmp_path)
    model: Model | None = models.load(version)
    (folder,) = tmp_path.glob("doomed/1")
    model = None
    gc.collect()
    models.drop_if_deleted(version)
    assert folder.exists()
    MlflowClient(settings.tracking_uri, settings.registry_uri).delete_model_version(*version)
    models.drop_if_deleted(version)
    assert model is None
    assert not folder.exists()
    with pytest.raises(ModelNotFound):
        models.load(version)


def test_without_the_registry_a_cached_version_is_kept(settings: Settings, tmp_path: Path) -> None:
    models = loader(settings, tmp_path)
    models.load(FOREST)
    gc.collect()
    away = Settings(home=settings.home, mlflow_tracking_uri="http://127.0.0.1:9")
    ModelLoader(MlflowRegistry(away), tmp_path).drop_if_deleted(FOREST)
    assert list(tmp_path.glob("forest/1"))


def test_the_error_of_broken_artifacts_names_no_folder(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        loader(settings, tmp_path).load(BROKEN)
    assert "broken/versions/1 cannot be loaded" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_failed_prediction_has_a_number_that_the_log_has_too(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = loader(settings, tmp_path).load(RAISING)
    with pytest.raises(ModelFailed) as caught:
        model.predict(Batch(LAYOUT, tuple(np.ones((3, 1))), 1))
    assert "on purpose" not in caught.value.message
    assert caught.value.details["failure"] in caplog.text
    assert "ValueError: on purpose" in caplog.text
