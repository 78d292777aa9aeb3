"""Predictions through our path equal those of plain ``pyfunc.predict``, to the last bit."""

from __future__ import annotations

import base64
import json
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Map, Object, Property
from mlflow.types.schema import Array as ArrayType
from sqlalchemy.exc import SADeprecationWarning

from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.model_io import model_input, model_output, model_params
from app.serving.json_output import predictions
from app.serving.rows import Layout, Rows, stack
from app.serving.signatures.signature import Signature
from tests.mlflow_server import EmptyRegistry

Records = list[dict[str, Any]]


def echo(data: Any, params: dict[str, Any] | None) -> list[str]:
    """Answer the dtypes and values of each row."""
    arrays = data if isinstance(data, dict | pd.DataFrame) else {"": np.asarray(data)}
    rows: list[str] = [type(data).__name__ + repr(sorted((params or {}).items()))] * len(
        next(iter(dict(arrays).values()))
    )
    for name, column in dict(arrays).items():
        for index, value in enumerate(column):
            # Text is as wide as the longest beside it.
            dtype = "text" if column.dtype.kind == "U" else column.dtype.str
            rows[index] += f"|{name!r} {dtype} {np.shape(column)[1:]} {_text(value)}"
    return rows


def shout(data: Any, params: dict[str, Any] | None) -> pd.DataFrame:
    """Write into the input, then answer a DataFrame."""
    data["x"] *= 2
    return pd.DataFrame(
        {
            "double": data["x"],
            "narrow": data["x"].astype("float32"),
            "count": data["n"] + 2**60,
            "text": data["s"].str.upper(),
            "large": data["x"] > 1,
            "when": pd.Timestamp("2024-01-01 00:00:00.000000001") + pd.to_timedelta(data["n"], unit="D"),
        }
    )


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str} {value.tolist()!r}"
    return f"{type(value).__name__} {value!r}"


@dataclass
class Case:
    """A model, rows as callers send them, and the same rows as plain pyfunc gets them."""

    name: str
    log: Callable[[], Any]
    row: Callable[[random.Random], dict[str, Any]]
    plain: Callable[[Records], Any] = pd.DataFrame
    params: list[dict[str, Any] | None] = field(default_factory=lambda: [None])
    alike: bool = True
    """Whether a row's prediction is independent of the other rows. Matrix products differ in the last bits."""


def numbers(*names: str) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {name: rng.choice([rng.gauss(0, 3), rng.randint(-5, 5)]) for name in names}


def doubles(records: Records) -> pd.DataFrame:
    return pd.DataFrame(records).astype("float64")


def training() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "c"])
    return frame, (frame["a"] * 2 - frame["b"] ** 2 + frame["c"]).to_numpy()


def log_linear() -> Any:
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame, target = training()
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(frame, target)
    signature = infer_signature(frame, model.predict(frame))
    return mlflow.sklearn.log_model(model, name="linear", signature=signature, pip_requirements=[])


def log_forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    frame, target = training()
    model = RandomForestClassifier(5, random_state=1).fit(frame, target > 0)
    return mlflow.sklearn.log_model(
        model,
        name="forest",
        signature=infer_signature(frame),
        pyfunc_predict_fn="predict_proba",
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=[],
    )


def log_lightgbm() -> Any:
    import lightgbm

    frame, target = training()
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(frame, target), num_boost_round=10)
    return mlflow.lightgbm.log_model(model, name="lightgbm", signature=infer_signature(frame), pip_requirements=[])


def log_xgboost() -> Any:
    import xgboost

    frame, target = training()
    model = xgboost.XGBRegressor(n_estimators=10, n_jobs=1).fit(frame, target)
    return mlflow.xgboost.log_model(model, name="xgboost", signature=infer_signature(frame), pip_requirements=[])


def log_onnx() -> Any:
    from skl2onnx import to_onnx
    from sklearn.tree import DecisionTreeRegressor

    frame, target = training()
    data = frame.to_numpy("float32")
    model = to_onnx(DecisionTreeRegressor(random_state=1).fit(data, target), data[:1])
    return mlflow.onnx.log_model(model, name="onnx", signature=infer_signature(data), pip_requirements=[])


def log_python(
    function: Callable[[Any, Any], Any],
    inputs: list[Any] | None,
    params: list[ParamSpec] | None = None,
    example: Any = None,
    **logged: Any,
) -> Callable[[], Any]:
    def log() -> Any:
        class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
            # Without type hints: MLflow would read them as a signature.
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                return function(model_input, params)

        signature = ModelSignature(Schema(inputs), None, ParamSchema(params) if params else None) if inputs else None
        return mlflow.pyfunc.log_model(
            name="python",
            python_model=Model(),
            signature=signature,
            input_example=example,
            pip_requirements=[],
            **logged,
        )

    return log


SCALARS = ["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"]


def scalar(kind: str, rng: random.Random) -> Any:
    """A value as JSON."""
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "integer":
        return rng.choice([rng.randint(-(2**31), 2**31 - 1), 3.0])
    if kind == "long":
        return rng.choice([rng.randint(-(2**63), 2**63 - 1), 2**53 + 1])
    if kind in ("float", "double"):
        return rng.choice([rng.gauss(0, 1e3), 7, None])
    if kind == "string":
        return rng.choice(["", "å\u0000b", "1", "x" * 40])
    if kind == "binary":
        return base64.encodebytes(rng.randbytes(rng.choice([0, 3, 80])) + b"\0").decode()
    return rng.choice(["2024-02-29", "1999-12-31T23:59:59.123456789Z", "2024-06-01T12:00:00+02:00", "2024-06-01 01:02"])


def pandas_value(kind: str, value: Any) -> Any:
    """The same value as a data scientist puts it into a DataFrame."""
    if value is None:
        return {"float": np.float32("nan"), "double": float("nan"), "datetime": pd.NaT}.get(kind)
    if kind == "binary":
        return base64.decodebytes(value.encode())
    if kind == "datetime":
        moment = pd.Timestamp(value)
        return moment.tz_convert("UTC").tz_localize(None) if moment.tzinfo else moment
    return {"integer": np.int32, "float": np.float32, "double": float}.get(kind, lambda same: same)(value)


def pandas_column(kind: str, values: list[Any]) -> pd.Series[Any]:
    dtypes = {
        "integer": "int32",
        "long": "int64",
        "float": "float32",
        "double": "float64",
        "datetime": "datetime64[ns]",
    }
    dtype = dtypes.get(kind, "object")
    if kind == "boolean" and None not in values:
        dtype = "bool"
    return pd.Series([pandas_value(kind, value) for value in values], dtype=dtype)


def all_scalars(rng: random.Random) -> dict[str, Any]:
    return {kind: scalar(kind, rng) for kind in SCALARS}


def optional_scalars(rng: random.Random) -> dict[str, Any]:
    row = all_scalars(rng)
    for kind in ("boolean", "string", "binary", "datetime"):
        if rng.random() < 0.3:
            row[kind] = None
    return row if rng.random() < 0.5 else {kind: row[kind] for kind in SCALARS if kind in row}


def scalar_frame(records: Records) -> pd.DataFrame:
    names = [kind for kind in SCALARS if any(kind in row for row in records)]
    return pd.DataFrame({kind: pandas_column(kind, [row.get(kind) for row in records]) for kind in names})


def sparse_scalars(rng: random.Random) -> dict[str, Any]:
    """Rows of one request that leave out different optional columns."""
    kinds = [kind for kind in ("double", "string", "boolean", "datetime") if rng.random() < 0.6]
    return {"integer": scalar("integer", rng), **{kind: scalar(kind, rng) for kind in kinds}}


NESTED = [
    *(ColSpec(ArrayType(DataType[kind]), f"list_{kind}") for kind in SCALARS if kind != "binary"),
    ColSpec(ArrayType(ArrayType(DataType.double)), "matrix"),
    ColSpec(ArrayType(AnyType()), "anything", required=False),
    ColSpec(
        Object(
            [
                *(Property(kind, DataType[kind]) for kind in SCALARS if kind != "double"),
                Property("note", DataType.string, required=False),
                Property("inner", Object([Property("sizes", ArrayType(DataType.integer))])),
            ]
        ),
        "thing",
    ),
    ColSpec(Map(DataType.double), "weights", required=False),
    ColSpec(AnyType(), "free"),
]


def nested(rng: random.Random) -> dict[str, Any]:
    def some(kind: str) -> list[Any]:
        values = [scalar(kind, rng) for _ in range(rng.randint(1, 3))]
        if kind == "string":
            return [value.replace("\0", "") for value in values]
        return [0 if value is None else value for value in values]

    row: dict[str, Any] = {f"list_{kind}": some(kind) for kind in SCALARS if kind != "binary"}
    row["matrix"] = [[rng.random(), rng.random()] for _ in range(rng.randint(0, 3))]
    thing = {kind: scalar(kind, rng) for kind in SCALARS if kind != "double"}
    thing["float"] = 0.1
    if rng.random() < 0.5:
        thing["note"] = rng.choice([None, "n"])
    row["thing"] = {**thing, "inner": {"sizes": [1, 2]}}
    row["free"] = rng.choice([1, "x", None, {"deep": [1, None]}, [1, 2]])
    row["anything"] = rng.choice([None, [], [1, "x", None]])
    row["weights"] = rng.choice([None, {}, {"a": 1.5, "b": 2.0}])
    return row


def nested_frame(records: Records) -> pd.DataFrame:
    def thing(value: dict[str, Any]) -> dict[str, Any]:
        plain = {kind: pandas_value(kind, item) for kind, item in value.items() if kind in SCALARS}
        plain["datetime"] = plain["datetime"].to_datetime64()  # MLflow takes no Timestamp inside an object
        rest = {key: item for key, item in value.items() if key == "note"}
        return {**plain, **rest, "inner": {"sizes": np.array(value["inner"]["sizes"], "int32")}}

    def listed(kind: str, value: list[Any]) -> Any:
        series = pandas_column(kind, value)
        return series.to_numpy() if kind in ("integer", "float", "datetime") else series.tolist()

    data: dict[str, Any] = {
        f"list_{kind}": [listed(kind, row[f"list_{kind}"]) for row in records] for kind in SCALARS if kind != "binary"
    }
    data["matrix"] = [row["matrix"] for row in records]
    data["anything"] = pd.Series([row["anything"] for row in records], dtype=object)
    data["thing"] = [thing(row["thing"]) for row in records]
    data["weights"] = pd.Series([row["weights"] for row in records], dtype=object)
    data["free"] = [row["free"] for row in records]
    return pd.DataFrame(data)


def tensors(rng: random.Random) -> dict[str, Any]:
    return {
        "x": [[rng.random(), rng.randint(0, 9)], [0.5, rng.choice([None, 1.5])]],
        "n": rng.randint(-(2**63), 2**63 - 1),
        "s": rng.choice(["a", "long text", "å"]),
        "b": rng.random() < 0.5,
        "h": [rng.random() for _ in range(rng.choice([1, 3]))],
    }


TENSORS = [
    TensorSpec(np.dtype("float32"), (-1, 2, 2), "x"),
    TensorSpec(np.dtype("int64"), (-1,), "n"),
    TensorSpec(np.dtype("str"), (-1,), "s"),
    TensorSpec(np.dtype("bool"), (-1,), "b"),
    TensorSpec(np.dtype("float16"), (-1, -1), "h"),
]


def tensor_dict(records: Records) -> dict[str, np.ndarray[Any, Any]]:
    return {spec.name: np.array([row[spec.name] for row in records], spec.type) for spec in TENSORS}


CASES = [
    Case("linear", log_linear, numbers("a", "b", "c"), doubles, alike=False),
    Case("forest", log_forest, numbers("a", "b", "c"), doubles),
    Case("lightgbm", log_lightgbm, numbers("c", "b", "a"), lambda records: doubles(records)[["a", "b", "c"]]),
    Case("xgboost", log_xgboost, numbers("a", "b", "c"), doubles),
    Case("onnx", log_onnx, numbers("a", "b", "c"), lambda records: doubles(records).to_numpy("float32")),
    Case(
        "params",
        log_python(
            echo,
            [ColSpec(DataType.double, "a")],
            [
                ParamSpec("top", DataType.long, 3),
                ParamSpec("rate", DataType.double, 0.5),
                ParamSpec("tags", DataType.string, ["a"], (-1,)),
                ParamSpec("since", DataType.datetime, "2024-01-01"),
                ParamSpec("deep", Object([Property("x", DataType.long)]), {"x": 1}),
            ],
        ),
        numbers("a"),
        doubles,
        [
            None,
            {},
            {"top": 5, "rate": 1, "tags": ["x", "y"]},
            {"since": "2024-05-05T01:02:03.000004", "deep": {"x": 2}},
            {"rate": None, "since": "2024-05-05"},
        ],
    ),
    Case("scalars", log_python(echo, [ColSpec(kind, kind) for kind in SCALARS]), all_scalars, scalar_frame),
    Case(
        "optional",
        log_python(echo, [ColSpec(kind, kind, required=False) for kind in SCALARS]),
        optional_scalars,
        scalar_frame,
    ),
    Case(
        "sparse",
        log_python(echo, [ColSpec(kind, kind, required=kind == "integer") for kind in SCALARS]),
        sparse_scalars,
        scalar_frame,
    ),
    Case("nested", log_python(echo, NESTED), nested, nested_frame),
    Case(
        "unnamed columns",
        log_python(echo, [ColSpec("double"), ColSpec("long")]),
        lambda rng: {"second": rng.random(), "first": rng.randint(0, 2**60)},
    ),
    Case(
        "numbered columns",
        log_python(echo, [ColSpec("double", 7), ColSpec("long", 3)]),
        lambda rng: {"7": rng.random(), "3": rng.randint(0, 2**60)},
        lambda records: pd.DataFrame([{7: row["7"], 3: row["3"]} for row in records]),
    ),
    Case("named tensors", log_python(echo, TENSORS), tensors, tensor_dict),
    Case(
        "one tensor",
        log_python(echo, [TensorSpec(np.dtype("uint8"), (-1, 3))]),
        lambda rng: {name: rng.randint(0, 255) for name in "rgb"},
        lambda records: pd.DataFrame(records).to_numpy("uint8"),
    ),
    Case(
        "frame",
        log_python(shout, [ColSpec("double", "x"), ColSpec("long", "n"), ColSpec("string", "s")]),
        lambda rng: {"x": rng.choice([None, rng.random() * 3]), "n": rng.randint(0, 9), "s": rng.choice("abc")},
        lambda records: pd.DataFrame(records).astype({"x": "float64"}),
    ),
    Case(
        "no signature",
        log_python(echo, None),
        lambda rng: {"i": rng.choice([1, 2**60]), "f": rng.choice([1, None, 2.5]), "s": "x", "b": rng.random() < 0.5},
    ),
]


ENFORCED = {"nested", "no signature"}
"""Cases whose input pyfunc validates again."""


@dataclass
class Logged:
    """A logged model, as plain pyfunc loads it and as it is served."""

    plain: Any
    served: Any
    signature: Signature


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry) -> Iterator[Callable[[Case], Logged]]:
    """Logs a case's model to a real MLflow, once, and loads it."""
    folder: Path = empty_registry(tmp_path_factory.mktemp("mlflow"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SADeprecationWarning)
        experiment = mlflow.create_experiment("parity", artifact_location=(folder / "artifacts").as_uri())

    def logged(case: Case) -> Logged:
        with warnings.catch_warnings(record=True), mlflow.start_run(experiment_id=experiment):
            warnings.simplefilter("ignore")  # MLflow hints at how to log better; some hints pass filters
            info = case.log()
        model = mlflow.pyfunc.load_model(info.model_uri)
        parts = model.metadata.signature.to_dict() if model.metadata.signature else {}
        parsed = {part: json.loads(text) for part, text in parts.items() if text}
        served = mlflow.pyfunc.load_model(info.model_uri)
        assert skip_enforcement(served) == (case.name not in ENFORCED)
        signature = Signature.compile(parsed.get("inputs"), parsed.get("outputs"), parsed.get("params"))
        return Logged(model, served, signature)

    yield logged
    mlflow.set_tracking_uri(before)


def as_json(prediction: Any) -> Any:
    """A plain prediction as JSON values."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, pd.Timestamp):
            return value.isoformat()
        return None if isinstance(value, float) and value != value else value

    if isinstance(prediction, pd.DataFrame):
        columns = {name: prediction[name].tolist() for name in prediction}
        return [clean(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    if isinstance(prediction, dict):
        return clean({name: array.tolist() for name, array in prediction.items()})
    return clean(prediction.tolist() if isinstance(prediction, np.ndarray) else prediction)


def answers(model: Any, parts: list[Rows]) -> list[Any]:
    """The predictions of requests that share one call."""
    batch = stack(parts)
    for array in batch.arrays:
        array.flags.writeable = False  # like an array from another process
    output = model_output(model.predict(model_input(batch), params=model_params(batch)))
    return [predictions(part) for part in output.split([part.count for part in parts])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_batched_and_single_predictions_equal_plain_pyfunc(case: Case, log: Callable[[Case], Logged]) -> None:
    logged, rng = log(case), random.Random(case.name)
    requests: list[tuple[Records, dict[str, Any] | None]] = [
        ([case.row(rng) for _ in range(rng.randint(1, 5))], rng.choice(case.params)) for _ in range(64)
    ]
    if case.name == "named tensors":  # rows of one request are of one length
        requests = [([{**row, "h": records[0]["h"]} for row in records], params) for records, params in requests]
    groups: dict[Layout, list[tuple[Rows, Records, dict[str, Any] | None]]] = defaultdict(list)
    for records, params in requests:
        rows = logged.signature.rows("records", json.loads(json.dumps(records)), params)
        groups[rows.layout].append((rows, records, params))
    for group in groups.values():
        together = answers(logged.served, [rows for rows, _, _ in group])
        everything = [row for _, records, _ in group for row in records]
        expected = as_json(logged.plain.predict(case.plain(everything), params=group[0][2]))
        assert exact([row for answer in together for row in rows_of(answer)]) == exact(rows_of(expected))
        for answer, (rows, records, params) in zip(together, group, strict=True):
            alone = as_json(logged.plain.predict(case.plain(records), params=params))
            assert exact(answers(logged.served, [rows])) == exact([alone])
            assert not case.alike or exact(answer) == exact(alone)
    assert len(groups) < 64, "nothing was batched"


def rows_of(answer: Any) -> list[Any]:
    if isinstance(answer, dict):
        return [dict(zip(answer, row, strict=True)) for row in zip(*answer.values(), strict=True)]
    return list(answer)


def exact(values: Any) -> str:
    """Text with all the bits of floats, which differs for 1 and 1.0."""
    return repr(values)
