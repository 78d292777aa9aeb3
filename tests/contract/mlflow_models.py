"""Models and requests for the comparison with MLflow's own scoring server."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pydantic

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
BAD, INVALID, UNSUPPORTED = (400, "BAD_REQUEST"), (400, "INVALID_PARAMETER_VALUE"), (415, "BAD_REQUEST")
WHEN = "2024-02-29T12:00:00"


def seen(data: Any, params: dict[str, Any] | None) -> list[str]:
    """Answer the kind of the input, and the values and dtypes of each row."""
    columns = {"": np.asarray(data)} if isinstance(data, np.ndarray | list) else dict(data)
    rows = [type(data).__name__ + repr(sorted((params or {}).items()))] * len(next(iter(columns.values())))
    for name, column in columns.items():
        for index, value in enumerate(column):
            kind = column.dtype.kind
            rows[index] += f"|{name!r} {'text' if kind == 'U' else column.dtype} {type(value).__name__} {value!r}"
    return rows


class Message(pydantic.BaseModel):
    """An item of a model with a type hint."""

    model_config = pydantic.ConfigDict(extra="allow")

    role: str = "user"
    size: int


def hinted(hint: Any) -> Callable[[], Any]:
    """A model whose only signature is the type hint of its input."""

    def log() -> Any:
        def predict(self, model_input, params=None):  # type: ignore[no-untyped-def]
            if isinstance(model_input, pd.DataFrame):
                return seen(model_input, params)
            return [repr(one) for one in model_input]

        predict.__annotations__ = {"model_input": hint}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow hints at better type hints
            model = type("Hinted", (mlflow.pyfunc.PythonModel,), {"predict": predict})
        return mlflow.pyfunc.log_model(name="hinted", python_model=model(), pip_requirements=[])

    return log


def described(data: Any, params: dict[str, Any] | None) -> list[str]:
    """Answer one text about the whole input, for inputs that have no rows in common."""
    if isinstance(data, pd.DataFrame):
        columns = [(repr(name), str(data[name].dtype), data[name].tolist()) for name in data.columns]
        return [f"DataFrame {data.index.tolist()} {data.index.dtype} {[*data.index.names]} {columns}"]
    if isinstance(data, dict):
        return [f"{name!r}: {described(value, None)}" for name, value in data.items()]
    return [f"{type(data).__name__} {getattr(data, 'dtype', '')} {np.shape(data)} {data!r}"]


def totals(data: Any, params: dict[str, Any] | None) -> pd.DataFrame:
    """A DataFrame with NaN, text and times."""
    return pd.DataFrame({"twice": data["a"] * 2, "text": data["s"].str.upper(), "when": pd.Timestamp(WHEN)})


def python(
    function: Callable[[Any, Any], Any], inputs: list[Any] | None, params: list[ParamSpec] | None = None
) -> Callable[[], Any]:
    def log() -> Any:
        class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
            # Without type hints: MLflow would read them as a signature.
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                return function(model_input, params)

        signature = ModelSignature(Schema(inputs), None, ParamSchema(params) if params else None) if inputs else None
        return mlflow.pyfunc.log_model(name="python", python_model=Model(), signature=signature, pip_requirements=[])

    return log


def linear() -> Any:
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [3.0, 1.0, 0.5]})
    model = LinearRegression().fit(frame, [1.0, 2.0, 3.0])
    return mlflow.sklearn.log_model(model, name="linear", signature=infer_signature(frame), pip_requirements=[])


MIXED = [
    ColSpec("string", "s"),
    ColSpec("long", "n"),
    ColSpec("boolean", "b"),
    ColSpec("double", "a"),
    ColSpec("string", "note", required=False),
]
MODELS = {
    "linear": linear,
    "mixed": python(seen, MIXED),
    "note": python(seen, [ColSpec("long", "n"), ColSpec("string", "note", required=False)]),
    "times": python(seen, [ColSpec("datetime", "t"), ColSpec("integer", "i"), ColSpec("float", "f")]),
    "frame": python(totals, [ColSpec("double", "a"), ColSpec("string", "s")]),
    "tensor": python(seen, [TensorSpec(np.dtype("float64"), (-1, 2))]),
    "image": python(seen, [TensorSpec(np.dtype("float32"), (-1, 2, 2))]),
    "named": python(seen, [TensorSpec(np.dtype("float64"), (-1,), "x"), TensorSpec(np.dtype("int64"), (-1, 2), "y")]),
    "series": python(lambda data, params: data["a"], [ColSpec("double", "a")]),
    "params": python(seen, [ColSpec("double", "a")], [ParamSpec("top", "long", 3), ParamSpec("tag", "string", "x")]),
    "unnamed": python(seen, [ColSpec("double"), ColSpec("long")]),
    "untyped": python(seen, None),
    "whole": python(described, MIXED),
    "whole untyped": python(described, None),
    "whole number": python(described, [ColSpec("double", "a")]),
    "whole optional": python(described, [ColSpec("double", "a", required=False)]),
    "whole tensors": python(
        described, [TensorSpec(np.dtype("float64"), (-1,), "x"), TensorSpec(np.dtype("int64"), (-1,), "y")]
    ),
    "texts": hinted(list[str]),
    "messages": hinted(list[Message]),
    "maps": hinted(list[dict[str, float]]),
    "moments": hinted(list[datetime]),
    "blobs": hinted(list[bytes]),
    "anything": hinted(list[Any]),
}


@dataclass(frozen=True)
class Vector:
    """One request. Where we differ from MLflow: what it answers and what we do, and why.

    Answers are predictions, 200 for any, an error's status and code, or the status of one that is not JSON.
    """

    name: str
    model: str
    body: bytes
    content_type: str | None = JSON
    mlflow: Any = None
    ours: Any = None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.model}: {self.name}"


def sent(name: str, model: str, value: Any, **further: Any) -> Vector:
    return Vector(name, model, json.dumps(value).encode(), **further)


def csv(name: str, model: str, text: str, **further: Any) -> Vector:
    return Vector(name, model, text.encode(), CSV, **further)


def parquet(name: str, model: str, frame: pd.DataFrame, **further: Any) -> Vector:
    file = io.BytesIO()
    frame.to_parquet(file)
    return Vector(name, model, file.getvalue(), PARQUET, **further)
