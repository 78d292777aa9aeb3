"""Accelerated models answer what MLflow answers, to the bit; others are not accelerated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from app.errors import ModelFailed
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output, RowLabels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    from app.adapters.mlflow import accelerators
    from app.adapters.mlflow.loaded_model import LoadedModel, read_model
    from app.adapters.mlflow.memory import MemoryGrowth

pytestmark = pytest.mark.filterwarnings("ignore")

RANDOM = np.random.default_rng(5)
NAMES = ("a", "b", "c")
FRAME = pd.DataFrame(RANDOM.normal(size=(300, 3)), columns=list(NAMES))
NUMBERS = FRAME["a"] * 3 - FRAME["b"] ** 2 + RANDOM.normal(size=300) / 10
LABELS = np.array(["low", "middle", "high"], dtype=object)[np.digitize(NUMBERS, [-1.0, 1.0])]
LAYOUT = Layout("columns", NAMES, ("float64",) * 3, ((),) * 3)
VERSION = ModelVersion("m", "1")


class Names(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Answers the number of named columns."""

    def fit(self, x: pd.DataFrame, y: Any) -> Names:
        self.fitted_ = True
        return self

    def predict(self, x: Any) -> np.ndarray:
        return np.full(len(x), float(len(getattr(x, "columns", ()))))


class Doubled(RandomForestRegressor):  # type: ignore[misc]
    """A forest that predicts in another way than its trees say."""

    def predict(self, x: Any) -> np.ndarray:
        return np.asarray(2 * super().predict(x))


class Refusing(LinearRegression):  # type: ignore[misc]
    """Refuses large values in a DataFrame, and takes them in an array."""

    def predict(self, x: Any) -> np.ndarray:
        if isinstance(x, pd.DataFrame) and (x["a"] > 100).any():
            raise ValueError("large")
        return np.asarray(super().predict(x))


def logged(tmp_path: Path, model: Any, target: Any, frame: pd.DataFrame = FRAME, **further: Any) -> Path:
    path = tmp_path / "model"
    if target is None:
        flavor = mlflow.lightgbm if isinstance(model, lightgbm.Booster | lightgbm.LGBMModel) else mlflow.xgboost
        flavor.save_model(model, str(path), signature=infer_signature(frame), pip_requirements=[])
        return path
    model.fit(frame, target)
    mlflow.sklearn.save_model(
        model,
        str(path),
        signature=infer_signature(frame, model.predict(frame)),
        serialization_format="cloudpickle",
        pip_requirements=[],
        **further,
    )
    return path


def load(path: Path, **further: Any) -> LoadedModel:
    return read_model(VERSION, path, MemoryGrowth(), **further)


def batch(rows: np.ndarray) -> Batch:
    return Batch(LAYOUT, tuple(np.ascontiguousarray(rows.T, dtype="float64")), len(rows))


def forest(kind: type, target: Any, **further: Any) -> tuple[Any, Any]:
    return kind(n_estimators=12, random_state=1, **further), target


def lightgbm_booster() -> lightgbm.Booster:
    return lightgbm.train({"verbose": -1}, lightgbm.Dataset(FRAME, NUMBERS), 20)


def xgboost_booster() -> xgboost.Booster:
    return xgboost.train({}, xgboost.DMatrix(FRAME, NUMBERS), 20)


QUIET: dict[str, Any] = {"n_estimators": 20, "verbose": -1}
STOPS: dict[str, Any] = {"pred_early_stop": True, "pred_early_stop_freq": 1, "pred_early_stop_margin": 0.1}
ACCELERATED: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "linear": (lambda: (LinearRegression(), NUMBERS), "array"),
    "logistic": (lambda: (LogisticRegression(), LABELS), "array"),
    "pipeline": (lambda: (make_pipeline(StandardScaler(), LinearRegression()), NUMBERS), "array"),
    "boosting": (lambda: (GradientBoostingRegressor(n_estimators=20), NUMBERS), "array"),
    "tree": (lambda: (DecisionTreeRegressor(), NUMBERS), "trees"),
    "tree-labels": (lambda: (DecisionTreeClassifier(max_depth=4), LABELS), "trees"),
    "forest": (lambda: forest(RandomForestRegressor, NUMBERS), "trees"),
    "forest-labels": (lambda: forest(RandomForestClassifier, LABELS), "trees"),
    "forest-whole-labels": (lambda: forest(RandomForestClassifier, (NUMBERS > 0).astype(int)), "trees"),
    "extra": (lambda: forest(ExtraTreesRegressor, NUMBERS), "trees"),
    "extra-labels": (lambda: forest(ExtraTreesClassifier, LABELS, max_depth=3), "trees"),
    "lightgbm": (lambda: (lightgbm.LGBMRegressor(**QUIET), NUMBERS), "booster"),
    "lightgbm-labels": (lambda: (lightgbm.LGBMClassifier(**QUIET), LABELS), "booster"),
    "lightgbm-two-labels": (lambda: (lightgbm.LGBMClassifier(**QUIET), NUMBERS > 0), "booster"),
    "lightgbm-stops-early": (lambda: (lightgbm.LGBMClassifier(**QUIET | STOPS), LABELS), "booster"),
    "lightgbm-flavor": (lambda: (lightgbm.LGBMRegressor(**QUIET).fit(FRAME, NUMBERS), None), "booster"),
    "lightgbm-booster": (lambda: (lightgbm_booster(), None), "array"),
    "xgboost": (lambda: (xgboost.XGBRegressor(n_estimators=20).fit(FRAME, NUMBERS), None), "array"),
    "xgboost-labels": (lambda: (xgboost.XGBClassifier(n_estimators=20).fit(FRAME, NUMBERS > 0), None), "array"),
    "xgboost-booster": (lambda: (xgboost_booster(), None), "booster"),
}


@pytest.fixture(scope="module", params=ACCELERATED)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    """An accelerated model, and what MLflow itself loads."""
    make, name = ACCELERATED[request.param]
    path = logged(tmp_path_factory.mktemp("models"), *make())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerators, "LEAST_GAIN", 0.0)  # other work on the machine must not decide
        model = load(path)
    assert model.spec.accelerator == name
    return model, mlflow.pyfunc.load_model(str(path))


VALUES = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1e300, -1e39, 3.4e38, np.nan, np.inf, -np.inf])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VALUES, VALUES, VALUES) | st.tuples(*(st.floats(-5, 5),) * 3), min_size=1, max_size=20))
def test_an_accelerated_model_answers_what_mlflow_answers(
    both: tuple[LoadedModel, Any], rows: list[tuple[float, float, float]]
) -> None:
    model, oracle = both
    values = np.array(rows)
    try:
        expected = oracle.predict(pd.DataFrame(values, columns=list(NAMES)))
    except Exception:
        with pytest.raises(ModelFailed):
            model.predict(batch(values))
        return
    (found,) = model.predict(batch(values)).arrays
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_probabilities_are_accelerated_too(tmp_path: Path) -> None:
    model, target = forest(RandomForestClassifier, LABELS)
    path = logged(tmp_path, model, target, pyfunc_predict_fn="predict_proba")
    found = load(path)
    assert found.spec.accelerator == "trees"
    rows = FRAME.to_numpy()[:50]
    expected = mlflow.pyfunc.load_model(str(path)).predict(FRAME[:50])
    assert found.predict(batch(rows)).arrays[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: (Names(), NUMBERS), id="columns by name"),
        pytest.param(lambda: (Refusing(), NUMBERS), id="an error in one way only"),
        pytest.param(
            lambda: (
                make_pipeline(ColumnTransformer([("s", StandardScaler(), ["a", "c"])]), LinearRegression()),
                NUMBERS,
            ),
            id="a transformer by name",
        ),
    ],
)
def test_a_model_of_other_answers_to_arrays_is_not_accelerated(
    tmp_path: Path, make: Callable[[], tuple[Any, Any]]
) -> None:
    path = logged(tmp_path, *make())
    found = load(path)
    assert found.spec.accelerator is None
    expected = mlflow.pyfunc.load_model(str(path)).predict(FRAME[:9].abs())
    assert found.predict(batch(FRAME.abs().to_numpy()[:9])).arrays[0].tolist() == expected.tolist()


def test_a_class_that_extends_a_forest_is_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LEAST_GAIN", 0.0)
    found = load(logged(tmp_path, Doubled(n_estimators=5), NUMBERS))
    assert found.spec.accelerator == "array"


def test_several_outputs_are_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LEAST_GAIN", 0.0)
    path = logged(tmp_path, RandomForestRegressor(n_estimators=5), np.stack([NUMBERS, -NUMBERS], axis=1))
    assert load(path).spec.accelerator == "array"


def test_columns_of_other_types_are_not_accelerated(tmp_path: Path) -> None:
    frame = FRAME.assign(c=(FRAME["c"] > 0))
    assert load(logged(tmp_path, LinearRegression(), NUMBERS, frame)).spec.accelerator is None


def test_whole_numbers_are_accelerated(tmp_path: Path) -> None:
    frame = (FRAME * 100).round().astype("int64")
    path = logged(tmp_path, DecisionTreeRegressor(), NUMBERS, frame)
    found = load(path)
    assert found.spec.accelerator == "trees"
    layout = Layout("columns", NAMES, ("int64",) * 3, ((),) * 3)
    values = np.array([[1, -5, 2**62], [2**53 + 1, 0, -(2**63)]])
    expected = mlflow.pyfunc.load_model(str(path)).predict(pd.DataFrame(values, columns=list(NAMES)))
    assert found.predict(Batch(layout, tuple(values.T.copy()), 2)).arrays[0].tolist() == expected.tolist()


def test_a_small_gain_is_not_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LEAST_GAIN", 1e6)
    assert load(logged(tmp_path, LinearRegression(), NUMBERS)).spec.accelerator is None


def test_a_slow_model_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "SLOW_S", 0.0)
    assert load(logged(tmp_path, LinearRegression(), NUMBERS)).spec.accelerator is None


def test_a_model_may_be_called_as_mlflow_calls_it(tmp_path: Path) -> None:
    assert load(logged(tmp_path, LinearRegression(), NUMBERS), accelerate=False).spec.accelerator is None


def test_python_code_is_not_accelerated(tmp_path: Path) -> None:
    class Wrapped(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["a"].to_numpy()

    path = tmp_path / "model"
    with warnings.catch_warnings(record=True):
        mlflow.pyfunc.save_model(str(path), python_model=Wrapped(), pip_requirements=[], input_example=FRAME[:3])
    assert load(path).spec.accelerator is None


def test_a_batch_of_another_layout_goes_the_usual_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(logged(tmp_path, LinearRegression(), NUMBERS))
    assert found.accelerator is not None
    calls: list[Batch] = []
    usual = accelerators.Accelerator.predict

    def counted(self: accelerators.Accelerator, one: Batch) -> Output:
        calls.append(one)
        return usual(self, one)

    monkeypatch.setattr(accelerators.Accelerator, "predict", counted)
    rows = FRAME.to_numpy()[:2]
    ordinary = batch(rows)
    expected = found.predict(ordinary).arrays[0].tolist()
    assert len(calls) == 1
    labeled = LAYOUT._replace(alone=True, labels=RowLabels((5, 6)))
    turned = LAYOUT._replace(names=("c", "b", "a"))
    for layout in (labeled, LAYOUT._replace(params='{"x":1}')):
        assert found.predict(Batch(layout, ordinary.arrays, 2)).arrays[0].tolist() == expected
    with pytest.raises(ModelFailed):
        found.predict(Batch(turned, ordinary.arrays, 2))
    assert len(calls) == 1


class Spoiling(LinearRegression):  # type: ignore[misc]
    """Writes into its input, and refuses an array of more than 150 rows afterwards."""

    def predict(self, x: Any) -> np.ndarray:
        answer = np.asarray(super().predict(x))
        if isinstance(x, np.ndarray):
            x[:] = 0
            if len(x) > 150:
                raise ValueError("too many")
        return answer


def test_an_error_after_writing_into_the_input_spoils_nothing(tmp_path: Path) -> None:
    path = logged(tmp_path, Spoiling(), NUMBERS)
    found = load(path)
    assert found.spec.accelerator == "array"
    block = np.ascontiguousarray(FRAME.to_numpy()[:200].T)
    sent = Batch(LAYOUT, tuple(block), 200, block)
    expected = mlflow.pyfunc.load_model(str(path)).predict(FRAME[:200])
    assert found.predict(sent).arrays[0].tolist() == expected.tolist()


def test_the_batch_of_a_caller_stays_as_it_is(tmp_path: Path) -> None:
    found = load(logged(tmp_path, make_pipeline(StandardScaler(copy=False), LinearRegression()), NUMBERS))
    given = batch(FRAME.to_numpy()[:4])
    for array in given.arrays:
        array.flags.writeable = False
    first, second = (found.predict(given).arrays[0].tolist() for _ in range(2))
    assert first == second
    assert np.array_equal(np.stack(given.arrays).T, FRAME.to_numpy()[:4])
