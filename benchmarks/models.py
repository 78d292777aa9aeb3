"""The models that every system serves: logged once with MLflow, their answers computed once, directly.

`python -m benchmarks.models` makes what is missing; the benchmarks call it so, to stay free of MLflow's memory. They
read with `read` what a model is asked and what it must answer.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paths import DATA, DEMO_HOME, MANY_HOME, SINGLE_HOME, STATE

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

Array = NDArray[np.float64]

COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")
"""Of the models with three columns: those of the demo, so that its feature view fits them."""

WIDE_COLUMNS = tuple(f"c{index}" for index in range(100))
LOADED, CHECKED = 256, 64
"""Rows that the load sends, and others that only the checks send."""

TABLE_ROWS, TABLES = 1000, 9
"""Rows of one request with a table, and different tables; the last one is for the checks."""

MANY = 100
INLINE = "-inline"
"""Ending of a model's second name, under which it is placed in the gateway."""

_MADE = STATE / "made"
_VERSION = "6"  # raise it, and everything is made anew
_REQUIREMENTS = ["mlflow", "numpy", "pandas", "scikit-learn"]
_LEAVES_FROM = 20_000
"""Rows that each of the hundred trees is grown on: an artifact of some 3 MB that predicts within microseconds."""


@dataclass(frozen=True)
class ModelData:
    """What a model is asked and what it answers.

    Args:
        name: of this data, which is the model's own name but for other questions to the same model.
        model: its registered name.
        folder: its artifacts.
        rows: inputs, ``(n, columns)``.
        answers: what the model predicts for them, ``(n,)``.
    """

    name: str
    model: str
    folder: Path
    columns: tuple[str, ...]
    rows: Array
    answers: Array


def read(name: str) -> ModelData:
    """A model that has been made, by its name."""
    facts = json.loads((DATA / f"{name}.json").read_text())
    with np.load(DATA / f"{name}.npz") as arrays:
        rows, answers = arrays["rows"], arrays["answers"]
    return ModelData(name, facts["model"], Path(facts["folder"]), tuple(facts["columns"]), rows, answers)


def many_names() -> list[str]:
    """Names of the hundred models that share one pool."""
    return [f"tree-{index:03d}" for index in range(MANY)]


def are_made() -> bool:
    """Whether `make` has nothing to do."""
    return _MADE.exists() and _MADE.read_text() == _VERSION


def make() -> None:
    """Train, log and register every model, and note what each must answer."""
    if are_made():
        return
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns of pickles, a hundred times
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - heavy, and rarely needed
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415

    for folder in (SINGLE_HOME, MANY_HOME, DEMO_HOME, DATA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    _make_demo()
    random = np.random.default_rng(254)
    narrow, wide = _prices(random, 2000), random.normal(size=(4000, len(WIDE_COLUMNS))).round(4)
    asked, tables = _prices(random, LOADED + CHECKED), random.normal(size=(TABLES * TABLE_ROWS, len(WIDE_COLUMNS)))
    target = _price(narrow, random)
    registry = _registry(SINGLE_HOME)
    forest = RandomForestRegressor(n_estimators=100, random_state=0)
    for name, model in (("linear", LinearRegression()), ("forest", forest)):
        _make(registry, name, model, columns=COLUMNS, rows=narrow, target=target, asked=asked)
    weights = random.normal(size=len(WIDE_COLUMNS))
    table = LinearRegression()
    _make(registry, "table", table, columns=WIDE_COLUMNS, rows=wide, target=wide @ weights, asked=tables.round(4))
    registry = _registry(MANY_HOME)
    for name in many_names():
        grown = _prices(random, _LEAVES_FROM)
        tree, target = DecisionTreeRegressor(), _price(grown, random)
        _make(registry, name, tree, columns=COLUMNS, rows=grown, target=target, asked=asked)
    _note_features()
    _MADE.write_text(_VERSION)


def _prices(random: np.random.Generator, count: int) -> Array:
    columns = (random.uniform(40, 110, count), random.uniform(1.5, 6, count), random.uniform(0.95, 1.35, count))
    return np.column_stack(columns).round(4)


def _price(rows: Array, random: np.random.Generator) -> Array:
    price: Array = 22.2 + rows @ np.array([0.82, 2.6, -12.0]) + random.normal(0, 0.8, len(rows))
    return price


def _registry(home: Path) -> MlflowClient:
    import mlflow  # noqa: PLC0415
    from mlflow import MlflowClient  # noqa: PLC0415

    uri = f"sqlite:///{home}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(uri, uri)


def _make(
    registry: MlflowClient,
    name: str,
    model: Any,
    *,
    columns: tuple[str, ...],
    rows: Array,
    target: Array,
    asked: Array,
) -> None:
    """Fit, save, register under both names, and predict what the model will be asked."""
    import mlflow  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types.schema import ColSpec, Schema  # noqa: PLC0415

    def frame(values: Array) -> pd.DataFrame:
        return pd.DataFrame(values, columns=list(columns))

    model.fit(frame(rows), target)
    home = MANY_HOME if name in many_names() else SINGLE_HOME
    folder = home / "artifacts" / name
    mlflow.sklearn.save_model(
        model,
        str(folder),
        signature=ModelSignature(
            inputs=Schema([ColSpec("double", column, required=True) for column in columns]),
            outputs=Schema([ColSpec("double", "price")]),
        ),
        input_example=frame(rows[:1]),
        serialization_format="cloudpickle",  # every peer's loader reads it, those without MLflow too
        pip_requirements=_REQUIREMENTS,
    )
    for registered, tags in ((name, {}), (name + INLINE, {"serving.pool": "inline"})):
        if home == MANY_HOME and tags:
            continue
        registry.create_registered_model(registered, tags=tags)
        registry.create_model_version(registered, folder.as_uri())
        registry.set_registered_model_alias(registered, "champion", "1")
    _note(name, name, folder, columns, asked)


def _note(name: str, model: str, folder: Path, columns: tuple[str, ...], asked: Array) -> None:
    """Predict what the model will be asked, directly, and keep it."""
    import mlflow  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    predicted = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame(asked, columns=list(columns)))
    np.savez(DATA / f"{name}.npz", rows=asked, answers=np.asarray(predicted, np.float64))
    (DATA / f"{name}.json").write_text(json.dumps({"model": model, "folder": str(folder), "columns": columns}))


def _make_demo() -> None:
    """Seed the demo, whose model is asked after a fresh start. First of all: later MLflow has a registry set."""
    import mlflow  # noqa: PLC0415

    from app.demo import EXAMPLE, MODEL, seed  # noqa: PLC0415
    from app.settings import load  # noqa: PLC0415

    seed(load(home=DEMO_HOME), lambda _: None)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@champion"))
    _note("start", MODEL, folder, COLUMNS, np.array([EXAMPLE]))


def _note_features() -> None:
    """The entities of the demo's feature view as questions to the linear model; the checks have two of their own."""
    from app.demo import COMMODITIES  # noqa: PLC0415

    entities = np.array(list(COMMODITIES.values()))
    asked = np.vstack([np.resize(entities[:-2], (LOADED, 3)), np.resize(entities[-2:], (CHECKED, 3))])
    _note("features", "linear", SINGLE_HOME / "artifacts" / "linear", COLUMNS, asked)


if __name__ == "__main__":
    make()
