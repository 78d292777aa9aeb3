"""Generated requests of 16 callers at once: each gets what it gets alone, which is what MLflow answers.

The models are real, saved and loaded as a pool loads them; what is known about them decides whether they are batched.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

from app.adapters.mlflow.loaded_model import read_model
from app.adapters.mlflow.memory import MemoryGrowth
from app.serving.references import ModelVersion
from app.settings import BatchSettings
from tests.fakes import FakeModel, Fakes, make_fakes
from tests.parity.options import EXAMPLES, SEED, generated

pytestmark = pytest.mark.filterwarnings("ignore")

ROUNDS = EXAMPLES // 40
"""Times that each model gets `CALLERS` generated requests, first one by one and then at once."""
CALLERS = 16
COLUMNS = ("a", "b")
EXAMPLE = pd.DataFrame({"a": [1.0, -2.5, 30.0], "b": [3.0, 0.25, -7.0]})
BATCH = BatchSettings(max_rows=7)
"""So small that larger requests are cut."""
UNCUT = {"python: dicts of different keys"}
"""Models whose answers to the pieces of a request may differ in form, after which they are no longer batched."""


def _two_tensors(frame: pd.DataFrame) -> dict[str, Any]:
    return {"sum": frame.sum(axis=1).to_numpy(), "text": np.array([f"{value:g}" for value in frame["a"]])}


ROW_WISE: dict[str, Callable[[pd.DataFrame], Any]] = {
    "array": lambda frame: frame["a"].to_numpy() * 2,
    "matrix": lambda frame: frame.to_numpy() * [1.0, 10.0],
    "series": lambda frame: (frame["a"] - frame["b"]).rename("difference"),
    "list of texts": lambda frame: [f"row {value:g}" for value in frame["a"]],
    "list of dicts": lambda frame: [{"a": value, "sign": value > 0} for value in frame["a"]],
    "frame": lambda frame: pd.DataFrame(
        {"sum": frame.sum(axis=1), "label": ["x" if a > 0 else "y" for a in frame["a"]]}
    ),
    "tensors": _two_tensors,
    "tuple": lambda frame: ([f"{value:g}" for value in frame["b"]], frame["a"].to_numpy()),
    "dicts of different keys": lambda frame: [
        {"large": value} if abs(value) > 1000 else {"small": value} for value in frame["a"]
    ],
    "some None": lambda frame: [None if value < 0 else value for value in frame["a"]],
}
WHOLE: dict[str, Callable[[pd.DataFrame], Any]] = {
    "running sums": lambda frame: frame["a"].cumsum().to_numpy(),
    "ranks": lambda frame: frame["a"].rank(),
    "share of the total": lambda frame: (frame["a"] / frame["a"].abs().sum()).to_numpy(),
    "three for each row": lambda frame: [value + period for value in frame["a"] for period in range(3)],
    "one row too few": lambda frame: frame["a"].to_numpy()[1:],
    "one number": lambda frame: float(frame["a"].sum()),
    "one text": lambda frame: f"{len(frame)} rows",
    "dict of scalars": lambda frame: {"rows": len(frame), "largest": frame["a"].max(), "none": None},
    "nested dict": lambda frame: {"rows": [{"a": value} for value in frame["a"]], "more": {"count": len(frame)}},
    "unequal lists": lambda frame: {"all": frame["a"].tolist(), "first": frame["b"].tolist()[:1]},
    "nothing": lambda frame: None,
}


class Case(NamedTuple):
    """A loaded model behind the gateway, and the same model for MLflow's server."""

    fakes: Fakes
    pyfunc: Any
    row_wise: bool


def _python(function: Callable[[pd.DataFrame], Any]) -> Any:
    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return function(model_input)

    return Model()


def _save(name: str, folder: Path) -> None:
    kind, _, which = name.partition(": ")
    signature = mlflow.models.infer_signature(EXAMPLE)
    further = {"signature": signature, "input_example": EXAMPLE, "pip_requirements": []}
    if kind == "sklearn":
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        made = {
            "linear": LinearRegression(),
            "forest": RandomForestClassifier(5, random_state=1),
            "pipeline": make_pipeline(StandardScaler(), LinearRegression()),
        }[which]
        mlflow.sklearn.save_model(made.fit(EXAMPLE, [0, 1, 1]), folder, serialization_format="cloudpickle", **further)
    elif kind == "lightgbm":
        import lightgbm

        many = pd.concat([EXAMPLE] * 20, ignore_index=True)
        booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(many, many["a"] * 2), 5)
        mlflow.lightgbm.save_model(booster, folder, **further)
    else:
        mlflow.pyfunc.save_model(folder, python_model=_python((ROW_WISE | WHOLE)[which]), **further)


NAMES = [
    *(f"python: {name}" for name in ROW_WISE | WHOLE),
    *(f"sklearn: {name}" for name in ("linear", "forest", "pipeline")),
    "lightgbm: booster",
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    found = {}
    for number, name in enumerate(NAMES):
        folder = tmp_path_factory.mktemp("parity") / str(number)
        _save(name, folder)
        model = read_model(ModelVersion("model", "1"), folder, MemoryGrowth(), alone=True)
        spec = model.spec
        behind = FakeModel(model.predict, spec.inputs, spec.outputs, row_wise=spec.batching.row_wise)
        fakes = make_fakes({"model": behind}, batch=BatchSettings() if name in UNCUT else BATCH)
        fakes.runner.delay_s = 0.001  # so that requests meet
        found[name] = Case(fakes, mlflow.pyfunc.load_model(str(folder)), spec.batching.row_wise)
    return found


class Request(NamedTuple):
    """A request in one dialect, and how to read its answer."""

    path: str
    body: dict[str, Any]
    key: str


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Rows of two numbers in any dialect."""
    value = st.floats(-1e6, 1e6, width=32).map(lambda number: number + 0.0)
    rows = draw(st.lists(st.tuples(value, value), min_size=1, max_size=9))
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    named = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    dialect = draw(st.sampled_from(["records", "split", "inputs", "v1", "serve", "v2"]))
    if dialect == "records":
        return Request("/invocations/model", {"dataframe_records": records}, "predictions")
    if dialect == "split":
        split = {"columns": [*COLUMNS], "data": [[*row] for row in rows]}
        return Request("/invocations/model", {"dataframe_split": split}, "predictions")
    if dialect == "inputs":
        return Request("/invocations/model", {"inputs": named}, "predictions")
    if dialect == "v1":
        return Request("/v1/models/model:predict", {"instances": records}, "predictions")
    if dialect == "serve":
        return Request("/serve", {"model_name": "model", "data": records}, "prediction")
    tensors = [
        {"name": name, "datatype": "FP64", "shape": [len(rows)], "data": values} for name, values in named.items()
    ]
    return Request("/v2/models/model/infer", {"inputs": tensors}, "outputs")


async def _answer(http: httpx.AsyncClient, request: Request) -> Any:
    response = await http.post(request.path, json=request.body)
    return response.json()[request.key] if response.status_code == 200 else (response.status_code, response.json())


async def _answers(fakes: Fakes, asked: list[Request], calls: Counter[str]) -> tuple[list[Any], list[Any]]:
    """Return the answers to requests that are sent one by one, and to the same by as many callers; count the calls."""
    before = len(fakes.runner.batches)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fakes.app), base_url="http://gateway") as http:
        alone = [await _answer(http, request) for request in asked]
        between = len(fakes.runner.batches)
        together = await asyncio.gather(*(_answer(http, request) for request in asked))
    calls.update(requests=len(asked), alone=between - before, together=len(fakes.runner.batches) - between)
    return alone, together


def _mlflows(case: Case, request: Request) -> Any:
    """Return the predictions of MLflow's own server."""
    body = json.dumps(request.body).encode()
    schema = case.pyfunc.metadata.get_input_schema()
    answer = scoring_server.invocations(body, "application/json", case.pyfunc, schema)
    assert answer.status == 200, answer.response
    return json.loads(answer.response, parse_constant=lambda _: None)["predictions"]


def _nearly(found: Any, expected: Any, share: float) -> bool:
    """Whether two JSON values are equal, floats up to a share: libraries add in another order in a batch."""
    if isinstance(found, float) and isinstance(expected, float):
        return bool(np.isclose(found, expected, rtol=share, atol=share))
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(partial(_nearly, share=share), found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_nearly(found[key], expected[key], share) for key in found)
    return type(found) is type(expected) and bool(found == expected)


def test_which_models_are_batched(cases: dict[str, Case]) -> None:
    whole = {f"python: {name}" for name in WHOLE}
    unsure = {"python: some None"}  # its answers have another type alone
    assert {name for name, case in cases.items() if not case.row_wise} == whole | unsure


@pytest.mark.parametrize("name", NAMES)
def test_callers_at_once_get_what_each_gets_alone(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    calls: Counter[str] = Counter()

    @generated(st.lists(requests(), min_size=CALLERS, max_size=CALLERS), ROUNDS)
    def compare(asked: list[Request]) -> None:
        alone, together = loop.run(_answers(case.fakes, asked, calls))
        for request, one, other in zip(asked, alone, together, strict=True):
            assert not isinstance(one, tuple), one
            assert _nearly(other, one, 1e-7) if case.row_wise else other == one
            if request.path.startswith("/invocations"):
                assert _nearly(one, _mlflows(case, request), 1e-12)

    with asyncio.Runner() as loop:  # one for all rounds, because the batchers live on it
        compare()
    print(f"{name}: {dict(calls)}, seed {SEED}")  # noqa: T201 - a longer run shows it
    assert calls["requests"] >= CALLERS * ROUNDS
    if case.row_wise:
        assert calls["together"] < calls["alone"]
    else:
        assert calls["together"] == calls["alone"] == calls["requests"]
