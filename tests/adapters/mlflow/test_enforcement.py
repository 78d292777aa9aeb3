"""Test for which models pyfunc still enforces the signature; `test_model_parity` covers the others."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from app.adapters.mlflow.enforcement import skip_enforcement


def test_a_signature_from_type_hints_stays(tmp_path: Path) -> None:
    class Shout(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, model_input: list[str]) -> list[str]:
            return [text.upper() for text in model_input]

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # MLflow hints at how to log better
        mlflow.pyfunc.save_model(tmp_path / "model", python_model=Shout(), pip_requirements=[])
        model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
        assert not skip_enforcement(model)
        assert model.predict(pd.DataFrame({"0": ["a"]})) == ["A"]


def test_parameters_keep_their_defaults(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # MLflow hints at type hints when the class is made

        class Scale(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                return model_input["x"] * params["factor"]

    signature = ModelSignature(
        Schema([ColSpec(DataType.double, "x")]), None, ParamSchema([ParamSpec("factor", DataType.double, 3.0)])
    )
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # MLflow hints at how to log better
        mlflow.pyfunc.save_model(tmp_path / "model", python_model=Scale(), signature=signature, pip_requirements=[])
        model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert skip_enforcement(model)
    assert model.predict(pd.DataFrame({"x": [2.0]})).tolist() == [6.0]
    assert model.predict(pd.DataFrame({"x": [2.0]}), params={"factor": 5.0}).tolist() == [10.0]
