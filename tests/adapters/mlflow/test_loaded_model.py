"""Predictions of a loaded model: whose fault an error is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc

from app.adapters.mlflow.loaded_model import LoadedModel
from app.errors import ModelFailed
from app.serving.model_spec import ModelSpec
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
