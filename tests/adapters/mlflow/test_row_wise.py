"""What the input example of a real MLflow model proves about batching."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec

from app.adapters.mlflow import row_wise
from app.serving.batching_contract import BatchingContract

pytestmark = pytest.mark.filterwarnings("ignore")

ONE_ROW = pd.DataFrame({"x": [2.0]})
ROWS = pd.DataFrame({"x": [2.0, 5.0, 3.0]})


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """A model of one function, which counts its calls."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.calls = 0

    # Without type hints: MLflow would read them as a signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return self.function(model_input)


def examined(
    tmp_path: Path, function: Callable[[Any], Any], example: Any, signature: ModelSignature | None = None
) -> BatchingContract:
    folder = tmp_path / "model"
    with warnings.catch_warnings(record=True):
        mlflow.pyfunc.save_model(
            folder,
            python_model=Model(function),
            input_example=example,
            signature=signature if signature is not None else ModelSignature(Schema([ColSpec("double", "x")])),
            pip_requirements=[],
        )
        return row_wise.examine(mlflow.pyfunc.load_model(str(folder)), "python_function", folder)


def shares(frame: pd.DataFrame) -> Any:
    return frame["x"] / frame["x"].sum()


def filled(frame: pd.DataFrame) -> Any:
    """Fill missing values with the mean, and refuse what is still missing."""
    found = frame["x"].fillna(frame["x"].mean())
    if found.isna().any():
        raise ValueError("a missing value")
    return found


def top_two(frame: pd.DataFrame) -> Any:
    return [item for value in frame["x"] for item in (value, value + 1)]


def labelled(frame: pd.DataFrame) -> Any:
    return ["high" if value > frame["x"].mean() else "low" for value in frame["x"]]


ROW_WISE: dict[str, Callable[[pd.DataFrame], Any]] = {
    "numbers": lambda frame: frame["x"] * 2,
    "labels": lambda frame: np.where(frame["x"] > 2, "high", "low"),
    "columns": lambda frame: pd.DataFrame({"y": frame["x"] + 1, "z": frame["x"].astype(str)}),
    "lists": lambda frame: [[value, value * 2] for value in frame["x"]],
    "dicts": lambda frame: [{"y": value, "parts": [value]} for value in frame["x"]],
    "matrix": lambda frame: frame[["x"]].to_numpy("float32") @ np.ones((1, 3), "float32"),
    "tuple": lambda frame: (list(frame["x"] > 2), frame["x"].to_numpy()),
    "nothing missing": lambda frame: frame["x"].fillna(0.0),
}
NOT_ROW_WISE: dict[str, Callable[[pd.DataFrame], Any]] = {
    "running sums": lambda frame: frame["x"].cumsum(),
    "shares": shares,
    "centered": lambda frame: frame["x"] - frame["x"].mean(),
    "ranks": lambda frame: frame["x"].rank(),
    "sorted": lambda frame: frame["x"].sort_values().to_numpy(),
    "differences": lambda frame: frame["x"].diff().fillna(0.0),
    "labels": labelled,
    "without repetitions": lambda frame: frame["x"].drop_duplicates(),
    "filled from others": filled,
    "index": lambda frame: frame.index.to_numpy(),
    "two per row": top_two,
    "one for all": lambda frame: [float(frame["x"].sum())],
    "number": lambda frame: float(frame["x"].sum()),
    "text": lambda frame: "text",
    "dict of numbers": lambda frame: {"sum": frame["x"].sum(), "count": len(frame)},
    "dict of unequal lists": lambda frame: {"x": frame["x"].tolist(), "sum": [frame["x"].sum()] * 7},
    "None": lambda frame: None,
}


@pytest.mark.parametrize("example", [ONE_ROW, ROWS], ids=["one row", "rows"])
@pytest.mark.parametrize("name", ROW_WISE)
def test_a_row_wise_model_is_proven(tmp_path: Path, name: str, example: pd.DataFrame) -> None:
    assert examined(tmp_path, ROW_WISE[name], example) == BatchingContract(True, "proven")


@pytest.mark.parametrize("example", [ONE_ROW, ROWS], ids=["one row", "rows"])
@pytest.mark.parametrize("name", NOT_ROW_WISE)
def test_another_model_is_disproved(tmp_path: Path, name: str, example: pd.DataFrame) -> None:
    found = examined(tmp_path, NOT_ROW_WISE[name], example)
    assert (found.row_wise, found.basis) == (False, "disproved")
    assert found.reason


def test_the_reason_names_the_counts(tmp_path: Path) -> None:
    assert examined(tmp_path, top_two, ROWS).reason == "it answered 2 items for 1 rows"


@pytest.mark.parametrize("shape", [(-1, 2), (-1, 2, 2)])
@pytest.mark.parametrize("is_row_wise", [True, False])
def test_tensors_are_examined(tmp_path: Path, shape: tuple[int, ...], is_row_wise: bool) -> None:
    example = np.arange(3 * np.prod(shape[1:]), dtype="float32").reshape(3, *shape[1:])
    signature = ModelSignature(Schema([TensorSpec(np.dtype("float32"), shape)]))
    found = examined(tmp_path, lambda rows: rows * 2 if is_row_wise else rows - rows.mean(axis=0), example, signature)
    assert found.basis == ("proven" if is_row_wise else "disproved")


def test_named_tensors_are_examined(tmp_path: Path) -> None:
    example = {"a": np.array([[1.0, 2.0], [3.0, 5.0]]), "b": np.array([1, 2])}
    found = examined(tmp_path, lambda given: given["a"].sum(axis=1) * given["b"], example, infer_signature(example))
    assert found.basis == "proven"


def test_a_fixed_number_of_rows_is_not_batched(tmp_path: Path) -> None:
    signature = ModelSignature(Schema([TensorSpec(np.dtype("float32"), (2, 3))]))
    found = examined(tmp_path, lambda rows: rows, np.ones((2, 3), "float32"), signature)
    assert found == BatchingContract(reason="its signature fixes the number of rows in a call")


def test_an_example_of_equal_rows_proves_nothing(tmp_path: Path) -> None:
    """The model refuses every other value."""

    def only_two(frame: pd.DataFrame) -> Any:
        if (frame["x"] != 2).any():
            raise ValueError("only 2")
        return frame["x"] - frame["x"].mean()

    found = examined(tmp_path, only_two, pd.DataFrame({"x": [2.0, 2.0]}))
    assert (found.row_wise, found.basis) == (False, "unproven")
    assert "its rows are equal" in (found.reason or "")
    assert "serving.batch.row_wise=true" in (found.reason or "")


def test_without_an_example_a_model_of_python_code_is_unproven(tmp_path: Path) -> None:
    found = examined(tmp_path, ROW_WISE["numbers"], None)
    assert (found.row_wise, found.basis) == (False, "unproven")


def test_an_example_that_fails_proves_nothing(tmp_path: Path) -> None:
    def refuse(frame: pd.DataFrame) -> Any:
        raise ValueError("secret")

    found = examined(tmp_path, refuse, ROWS)
    assert (found.row_wise, found.basis) == (False, "unproven")
    assert "it raised ValueError" in (found.reason or "")
    assert "secret" not in (found.reason or "")


def test_a_slow_prediction_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_wise, "SLOW_S", 0.0)
    folder = tmp_path / "model"
    with warnings.catch_warnings(record=True):
        mlflow.pyfunc.save_model(
            folder, python_model=Model(ROW_WISE["numbers"]), input_example=ROWS, pip_requirements=[]
        )
        model = mlflow.pyfunc.load_model(str(folder))
    before = model.unwrap_python_model().calls
    found = row_wise.examine(model, "python_function", folder)
    assert (found.row_wise, found.basis) == (False, "unproven")
    assert "takes more than" in (found.reason or "")
    assert model.unwrap_python_model().calls == before + 1


@pytest.mark.parametrize("with_example", [True, False])
def test_scikit_learn_predicts_row_by_row(tmp_path: Path, with_example: bool) -> None:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(ROWS, [1.0, 2.0, 3.0])
    with warnings.catch_warnings(record=True):
        mlflow.sklearn.save_model(
            model, tmp_path / "model", input_example=ROWS if with_example else None, pip_requirements=[]
        )
        loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = row_wise.examine(loaded, "sklearn", tmp_path / "model")
    assert found == BatchingContract(True, "proven" if with_example else "flavor")


def test_a_pipeline_that_looks_at_all_rows_is_disproved(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    centered = FunctionTransformer(lambda frame: frame - frame.mean())
    model = make_pipeline(centered, LinearRegression()).fit(ROWS, [1.0, 2.0, 3.0])
    with warnings.catch_warnings(record=True):
        mlflow.sklearn.save_model(
            model,
            tmp_path / "model",
            input_example=ONE_ROW,
            serialization_format="cloudpickle",
            pip_requirements=[],
        )
        loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert row_wise.examine(loaded, "sklearn", tmp_path / "model").basis == "disproved"
