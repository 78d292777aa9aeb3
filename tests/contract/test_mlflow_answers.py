"""What a model answers, and the JSON of MLflow's own scoring server and of ours for it."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse  # type: ignore[import-untyped]
from hypothesis import strategies as st
from pydantic import BaseModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

from mlflow.models import infer_signature

from app.adapters.mlflow.loaded_model import LoadedModel
from app.adapters.mlflow.model_io import model_output
from app.api.http.answers import versioned_reply
from app.api.mlflow.answers import mlflow_predictions
from app.serving.model_spec import ModelSpec
from app.serving.references import parse_ref
from tests.fakes import FakeModel, columns, make_fakes
from tests.parity.options import generated

pytestmark = pytest.mark.filterwarnings("ignore")  # those of pandas and of MLflow about how models answer

NS = np.array(["2024-01-01T00:00:00.000000001", "2024-02-29"], "M8[ns]")


class Color(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Pair(NamedTuple):
    label: str
    score: float


class Reply(BaseModel):
    text: str
    scores: list[float]


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


# Answers that MLflow's server encodes: ours must be the same, and natural JSON where it differs from that.
ENCODED: dict[str, Any] = {
    "text": lambda: "text",
    "empty text": lambda: "",
    "half a character": lambda: "\ud800",
    "bytes": lambda: b"\0" * 60,
    "number": lambda: 1.5,
    "whole number": lambda: 2**53 + 1,
    "huge number": lambda: 2**70,
    "huge number beside others": lambda: [1, 2**70],
    "boolean": lambda: True,
    "None": lambda: None,
    "NaN": lambda: float("nan"),
    "np.float64": lambda: np.float64(1.5),
    "np.float32": lambda: np.float32(0.1),
    "np.int8": lambda: np.int8(3),
    "np.bool_": lambda: np.bool_(True),
    "np.str_": lambda: np.str_("a"),
    "np.datetime64 in ns": lambda: NS[0],
    "np.datetime64 in s": lambda: np.datetime64("2024-01-01T00:00:00"),
    "np.array(1)": lambda: np.array(1),
    "np.array of float32": lambda: np.array(0.1, "f4"),
    "date": lambda: date(2024, 1, 1),
    "time": lambda: time(12, 30),
    "datetime": lambda: datetime(2024, 1, 1, tzinfo=UTC),
    "Timestamp": lambda: pd.Timestamp("2024-01-01 00:00:00.000000001"),
    "IntEnum": lambda: Size.LARGE,
    "dict of scalars": lambda: {"label": "a", "score": 0.5, "rank": np.int64(3), "none": None, "nan": np.nan},
    "nested dict": lambda: {"a": {"b": [1, {"c": None}]}, "d": np.array([[1, 2]])},
    "dict of unequal lists": lambda: {"a": [1, 2], "b": [0.5], "c": []},
    "dict of arrays": lambda: {"a": np.array([1, 2]), "b": np.ones((2, 1), "f4")},
    "dict of an array and a text": lambda: {"scores": np.array([0.1, 0.2], "f4"), "model": "x"},
    "empty dict": dict,
    "dict of other keys": lambda: {2: "a", True: "b", None: "c", 1.5: "d"},
    "list of dicts": lambda: [{"a": 1, "b": "x"}, {"b": "y", "a": 2.5}],
    "list of unequal dicts": lambda: [{"a": 1}, {"b": [2]}, {}],
    "list of models": lambda: [Reply(text="a", scores=[1]), Reply(text="b", scores=[])],
    "model": lambda: Reply(text="a", scores=[1, 2.5]),
    "empty list": list,
    "mixed numbers": lambda: [1, 2.5, 2**60 + 1],
    "mixed kinds": lambda: [True, 1, "a", None, 0.5, b"b"],
    "numpy scalars": lambda: [np.float32(0.1), np.int64(2), np.bool_(True), np.str_("a")],
    "ragged lists": lambda: [[1], [2, 3], []],
    "regular lists": lambda: [[1, 2.5], [3, 4]],
    "arrays in a list": lambda: [np.array([1, 2]), np.array([0.5])],
    "arrays of two dtypes in a list": lambda: [np.array([1, 2]), np.array([0.5, 1.0])],
    "times in a list": lambda: [pd.Timestamp("2024-01-01"), datetime.fromisoformat("2024-01-01T12:00"), time(1), NS[0]],
    "deep list": lambda: nested(100, lambda inner: [inner]),
    "deep dict": lambda: nested(260, lambda inner: {"a": inner}),
    "tuple of scalars": lambda: (1, "a"),
    "tuple of arrays": lambda: (np.array(["a", "b"]), np.ones((2, 2), "f4")),
    "tuple of lists": lambda: (["a"], [0.5, 1]),
    "named tuple": lambda: Pair("a", 0.5),
    "empty tuple": tuple,
    "array": lambda: np.array([[1.5, np.nan]]),
    "array of float16": lambda: np.array([0.1], "f2"),
    "array of text": lambda: np.array(["a", "bc"]),
    "array of bytes": lambda: np.array([b"a", b"bc"]),
    "array of objects": lambda: np.array([{"a": np.int8(1)}, None, b"b"], object),
    "array of datetimes in ns": lambda: NS,
    "array of datetimes in us": lambda: NS.astype("M8[us]"),
    "array of days": lambda: NS.astype("M8[D]"),
    "array of durations in ns": lambda: NS - NS[0],
    "array of records": lambda: np.array([(1, 0.5), (2, 1.5)], "i4,f8"),
    "array of no rows": lambda: np.empty((0, 3)),
    "masked array": lambda: np.ma.array([1, 2], mask=[True, False]),
    "big-endian array": lambda: np.array([1, 2], ">i4"),
    "Series": lambda: pd.Series([1, 2], name="price", index=[7, 7]),
    "Series without a name": lambda: pd.Series([0.5, None]),
    "Series with a number for a name": lambda: pd.Series(["a"], name=3),
    "Series of datetimes": lambda: pd.Series(NS, name="when"),
    "Series with a missing whole number": lambda: pd.Series([1, None], dtype="Int64", name="n"),
    "Series of categories": lambda: pd.Series(["a", "b"], dtype="category", name="c"),
    "DataFrame": lambda: pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None], "d": NS, 3: [True, False]}),
    "DataFrame of cells": lambda: pd.DataFrame({"a": [[1, 2], {"b": np.ones(2)}], "b": [b"x", np.float32(0.1)]}),
    "DataFrame with a time zone": lambda: pd.DataFrame({"t": pd.to_datetime(NS).tz_localize("Europe/Zurich")}),
    "DataFrame without rows": lambda: pd.DataFrame({"a": []}),
    "DataFrame without columns": lambda: pd.DataFrame(index=[0, 1]),
}

# Answers that MLflow's server fails on, or has no JSON for; and ours, None for a failure of the model.
OURS: dict[str, tuple[Callable[[], Any], Any]] = {
    "NaT in a DataFrame": (lambda: pd.DataFrame({"t": [pd.NaT, pd.Timestamp("2024-01-01")]}), [
        {"t": None}, {"t": "2024-01-01T00:00:00"}
    ]),
    "columns of one name": (lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]), None),
    "sparse matrix": (lambda: scipy.sparse.csr_matrix([[0, 1]]), [[0, 1]]),
    "Index": (lambda: pd.Index([1, 2]), [1, 2]),
    "pd.NA": (lambda: [1, pd.NA], [1, None]),
    "Series in a dict": (lambda: {"a": pd.Series([1, 2])}, {"a": [1, 2]}),
    "DataFrame in a dict": (lambda: {"a": pd.DataFrame({"b": [1]}), "c": 1}, {"a": {"b": [1]}, "c": 1}),
    "duration": (lambda: timedelta(seconds=2), 2.0),
    "durations in s": (lambda: np.array([2], "m8[s]"), [2.0]),
    "Decimal": (lambda: [Decimal("1.50")], ["1.50"]),
    "set": (lambda: {"a"}, ["a"]),
    "Enum": (lambda: Color.RED, "red"),
    "key of numpy": (lambda: {np.int64(1): "a"}, {"1": "a"}),
    "several levels of columns": (lambda: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), [
        {"('a', 'b')": 1}
    ]),
    "complex numbers": (lambda: np.array([1j]), None),
    "generator": (lambda: (value for value in (1, 2)), None),
    "object": (object, None),
}  # fmt: skip

ANSWERS = ENCODED | {name: make for name, (make, _) in OURS.items()}

# How /serve and /v1 answer where that is not what /invocations answers.
NATURAL: dict[str, Any] = {
    "bytes": "AAAA" * 20,
    "huge number": str(2**70),
    "huge number beside others": [1, str(2**70)],
    "np.datetime64 in ns": "2024-01-01T00:00:00.000000001",
    "mixed kinds": [True, 1, "a", None, 0.5, "Yg=="],
    "times in a list": [
        "2024-01-01T00:00:00", "2024-01-01T12:00:00", "01:00:00", "2024-01-01T00:00:00.000000001"
    ],
    "array of bytes": ["YQ==", "YmM="],
    "array of objects": [{"a": 1}, None, "Yg=="],
    "array of datetimes in ns": ["2024-01-01T00:00:00.000000001", "2024-02-29T00:00:00"],
    "array of durations in ns": [0.0, 5097599.999999999],
    "Series": [1, 2],
    "Series without a name": [0.5, None],
    "Series with a number for a name": ["a"],
    "Series of datetimes": ["2024-01-01T00:00:00.000000001", "2024-02-29T00:00:00"],
    "Series of categories": ["a", "b"],
    "DataFrame of cells": [{"a": [1, 2], "b": "eA=="}, {"a": {"b": [1.0, 1.0]}, "b": 0.10000000149011612}],
    "Series with a missing whole number": [1, None],
}  # fmt: skip


class Answering(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """A model that answers what the input names."""

    # Without type hints: MLflow would read them as a signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return ANSWERS[model_input["answer"].iloc[0]]()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("model") / "model"
    mlflow.pyfunc.save_model(folder, python_model=Answering(), pip_requirements=[])
    return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture
def theirs(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # as the server itself does, which leaves it so
    return scoring_server.init(model)


@pytest.fixture
def ours(model: Any) -> Any:
    spec = ModelSpec("model", "1", "python_function", None, None, None, None, 0, 0.0)
    fakes = make_fakes({"model": FakeModel(LoadedModel(spec, model).predict)})
    fakes.default_model = parse_ref("model")
    return fakes.app


async def posted(app: Any, path: str, body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post(path, json=body)


async def invoked(app: Any, name: str) -> httpx.Response:
    return await posted(app, "/invocations", {"dataframe_records": [{"answer": name}]})


def exact(text: str | bytes) -> str:
    """JSON with sorted keys, which differs for 1 and 1.0. MLflow writes NaN, which JSON has not."""
    return json.dumps(json.loads(text, parse_constant=lambda word: None), sort_keys=True)


@pytest.mark.parametrize("name", ENCODED)
async def test_invocations_answers_what_mlflow_answers(name: str, theirs: Any, ours: Any) -> None:
    expected, answer = await invoked(theirs, name), await invoked(ours, name)
    assert (expected.status_code, answer.status_code) == (200, 200), answer.text
    assert exact(answer.content) == exact(expected.content)


@pytest.mark.parametrize("name", OURS)
async def test_what_mlflow_cannot_write_has_a_form_or_fails(name: str, theirs: Any, ours: Any) -> None:
    expected, answer = await invoked(theirs, name), await invoked(ours, name)
    if OURS[name][1] is None:
        assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
        assert answer.json()["message"].startswith("the model answered")
        return
    assert exact(answer.content) == exact(json.dumps({"predictions": OURS[name][1]}))
    assert expected.status_code == 500 or exact(expected.content) != exact(answer.content)


@pytest.mark.parametrize("name", ANSWERS)
async def test_serve_and_v1_answer_natural_json(name: str, ours: Any) -> None:
    invocations = await invoked(ours, name)
    serve = await posted(ours, "/serve", {"model_name": "model", "data": {"answer": name}})
    v1 = await posted(ours, "/v1/models/model:predict", {"instances": [{"answer": name}]})
    if invocations.status_code == 500:
        assert (serve.status_code, v1.status_code) == (500, 500)
        return
    answer = serve.json()["prediction"]
    assert repr(v1.json()["predictions"]) == repr(answer)
    assert exact(json.dumps(answer)) == exact(json.dumps(NATURAL.get(name, invocations.json()["predictions"])))


def declared(name: str) -> list[Any]:
    """The outputs that MLflow infers from an answer; empty if it infers none."""
    try:
        signature = infer_signature(pd.DataFrame({"answer": [name]}), ENCODED[name]())
    except Exception:
        return []
    outputs: list[Any] = json.loads(signature.to_dict()["outputs"] or "[]")
    return outputs


BROKEN = {"deep dict", "deep list", "half a character", "ragged lists", "array of records", "masked array"}
"""Answers that no tensor of MLflow's inferred datatype can hold. `tests/api/oip/test_answers.py` has the errors."""

DECLARED = {name: outputs for name in ENCODED if name not in BROKEN and (outputs := declared(name))}


def test_mlflow_infers_outputs_of_many_answers() -> None:
    assert len(DECLARED) > 25


@pytest.mark.parametrize("name", DECLARED)
async def test_tensors_are_those_of_the_signature_that_mlflow_infers(name: str) -> None:
    model = FakeModel(lambda batch: model_output(ENCODED[name]()), columns("x"), DECLARED[name], row_wise=False)
    app = make_fakes({"model": model}).app
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        promised = [(one["name"], one["datatype"]) for one in (await client.get("/v2/models/model")).json()["outputs"]]
        inputs = [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]
        wanted = [{"name": name} for name, _ in promised]
        for body in ({"inputs": inputs}, {"inputs": inputs, "outputs": wanted}):
            answer = await client.post("/v2/models/model/infer", json=body)
            assert answer.status_code == 200, answer.text
            assert [(one["name"], one["datatype"]) for one in answer.json()["outputs"]] == promised


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=3)
    | st.binary(max_size=3)
    | st.dates()
    | st.builds(np.float32, st.floats(width=32, allow_nan=False, allow_infinity=False))
    | st.builds(np.int16, st.integers(-9, 9))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=12,
)


@generated(VALUES)
def test_any_nested_answer_is_what_mlflow_writes(value: Any) -> None:
    expected = io.StringIO()
    scoring_server.predictions_to_json(value, expected)
    reply = versioned_reply({"predictions": mlflow_predictions(model_output(value))}, "1")
    assert exact(reply.body) == exact(expected.getvalue())
