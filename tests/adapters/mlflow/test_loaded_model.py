"""Predictions of a loaded model: whose fault an error is."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc

from app.adapters.mlflow.loaded_model import LoadedModel, read_model
from app.adapters.mlflow.memory import MemoryGrowth
from app.errors import ModelFailed, ModelUnavailable
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, RowLabels

pytestmark = pytest.mark.filterwarnings("ignore")


def test_input_that_cannot_be_made_is_not_the_models_failure(tmp_path: Path) -> None:
    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["x"] / 0

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Model(), pip_requirements=[])
    model = LoadedModel(ModelSpec("m", "1", "python_function"), mlflow.pyfunc.load_model(str(tmp_path / "model")))
    layout = Layout("columns", ("x",), ("object",), ((),))
    values = (np.array(["a"], dtype=object),)
    with pytest.raises(ModelFailed, match="raised TypeError while predicting"):
        model.predict(Batch(layout, values, 1))
    labels = RowLabels((1,), ([1],))  # type: ignore[arg-type]  # the point
    with pytest.raises(TypeError, match="hashable"):
        model.predict(Batch(layout._replace(alone=True, labels=labels), values, 1))


class Exiting(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Raises what ends an event loop, while it is loaded or while it predicts."""

    def __init__(self, kind: type[BaseException], *, at_load: bool) -> None:
        self.kind = kind
        self.at_load = at_load

    def load_context(self, context: Any) -> None:
        if self.at_load:
            raise self.kind

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        raise self.kind


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_whatever_a_model_raises_is_its_failure(tmp_path: Path, kind: type[BaseException]) -> None:
    version, layout = ModelVersion("m", "1"), Layout("tensor", (), ("float64",), ((),))
    for name, at_load in (("late", False), ("early", True)):
        mlflow.pyfunc.save_model(tmp_path / name, python_model=Exiting(kind, at_load=at_load), pip_requirements=[])
    model = read_model(version, tmp_path / "late", MemoryGrowth())
    with pytest.raises(ModelFailed, match=f"raised {kind.__name__} while predicting"):
        model.predict(Batch(layout, (np.ones(1),), 1))
    with pytest.raises(ModelUnavailable, match=f"it raised {kind.__name__}"):
        read_model(version, tmp_path / "early", MemoryGrowth())
