"""The models that every system serves. MLflow logs them once, and pyfunc predicts the expected answers once.

`python -m benchmarks.models` makes missing models. The benchmarks run it as a process, because MLflow needs much
memory, and read inputs and expected answers with `read`.
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

from benchmarks.paths import DATA, DEMO_HOME, GROWN_HOME, MANY_HOME, SINGLE_HOME, STATE

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

Array = NDArray[np.float64]

COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")
"""Columns of the narrow models: those of the demo, so that the demo's feature view fits them."""

WIDE_COLUMNS = tuple(f"c{index}" for index in range(100))
LOADED, CHECKED = 256, 64
"""Numbers of rows that the load sends, and of further rows that only the checks send."""

TABLE_ROWS, TABLES = 1000, 9
"""Rows in one table, and number of tables; the last table is for the checks."""

MANY = 100
GROWN = 1000
INLINE = "-inline"
"""Suffix of a model's second name, whose tag places it in the gateway."""

_MADE = STATE / "made"
_VERSION = "7"  # raise it to make all models again
_REQUIREMENTS = ["mlflow", "numpy", "pandas", "scikit-learn"]
_LEAVES_FROM = 20_000
"""Training rows of each of the hundred trees: artifacts of about 3 MB that predict within microseconds."""


@dataclass(frozen=True)
class ModelData:
    """Inputs of a model, and the expected answers.

    Args:
        name: of this data set: the name of its session.
        model: registered name of the model.
        folder: artifacts of the model.
        rows: inputs, ``(n, columns)``.
        answers: predictions for them, ``(n,)``.
    """

    name: str
    model: str
    folder: Path
    columns: tuple[str, ...]
    rows: Array
    answers: Array


def read(name: str) -> ModelData:
    """Return the data set of this name."""
    facts = json.loads((DATA / f"{name}.json").read_text())
    with np.load(DATA / f"{name}.npz") as arrays:
        rows, answers = arrays["rows"], arrays["answers"]
    return ModelData(name, facts["model"], Path(facts["folder"]), tuple(facts["columns"]), rows, answers)


def many_names() -> list[str]:
    """Return the names of the hundred models that share one pool."""
    return [f"tree-{index:03d}" for index in range(MANY)]


def grown_names() -> list[str]:
    """Return the names of the thousand models that share the artifacts of the linear model."""
    return [f"copy-{index:03d}" for index in range(GROWN)]


def data_of(session: str) -> str:
    """Return the name of the data set of a session."""
    return {"many": many_names()[0], "pool-2": "linear", "pool-4": "linear"}.get(session, session)


def are_made() -> bool:
    """Return whether all models exist."""
    return _MADE.exists() and _MADE.read_text() == _VERSION


def make() -> None:
    """Train, log and register every model, and store inputs and expected answers."""
    if are_made():
        return
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # a hundred warnings about pickles
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - heavy, and rarely needed
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415

    for folder in (SINGLE_HOME, MANY_HOME, GROWN_HOME, DEMO_HOME, DATA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    _make_demo()
    random = np.random.default_rng(254)
    narrow, wide = _prices(random, 2000), random.normal(size=(4000, len(WIDE_COLUMNS))).round(4)
    inputs, tables = _prices(random, LOADED + CHECKED), random.normal(size=(TABLES * TABLE_ROWS, len(WIDE_COLUMNS)))
    target = _price(narrow, random)
    registry = _registry(SINGLE_HOME)
    forest = RandomForestRegressor(n_estimators=100, random_state=0)
    for name, model in (("linear", LinearRegression()), ("forest", forest)):
        _make(registry, name, model, columns=COLUMNS, rows=narrow, target=target, inputs=inputs)
    weights = random.normal(size=len(WIDE_COLUMNS))
    table = LinearRegression()
    _make(registry, "table", table, columns=WIDE_COLUMNS, rows=wide, target=wide @ weights, inputs=tables.round(4))
    registry = _registry(MANY_HOME)
    for name in many_names():
        grown = _prices(random, _LEAVES_FROM)
        tree, target = DecisionTreeRegressor(), _price(grown, random)
        _make(registry, name, tree, columns=COLUMNS, rows=grown, target=target, inputs=inputs)
    _store_features()
    _make_grown(inputs)
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
    inputs: Array,
) -> None:
    """Fit, save and register a model under both names, and store its inputs and expected answers."""
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
        serialization_format="cloudpickle",  # the loaders of all peers read it, also those without MLflow
        pip_requirements=_REQUIREMENTS,
    )
    for registered, tags in ((name, {}), (name + INLINE, {"serving.pool": "inline"})):
        if home == MANY_HOME and tags:
            continue
        _register(registry, registered, folder, tags)
    _store(name, name, folder, columns, inputs)


def _register(registry: MlflowClient, name: str, folder: Path, tags: dict[str, str]) -> None:
    registry.create_registered_model(name, tags=tags)
    registry.create_model_version(name, folder.as_uri())
    registry.set_registered_model_alias(name, "champion", "1")


def _make_grown(inputs: Array) -> None:
    folder = SINGLE_HOME / "artifacts" / "linear"
    registry = _registry(GROWN_HOME)
    for name in grown_names():
        _register(registry, name, folder, {})
    _store("grown", grown_names()[0], folder, COLUMNS, inputs)


def _store(name: str, model: str, folder: Path, columns: tuple[str, ...], inputs: Array) -> None:
    """Predict with pyfunc, and store inputs and answers."""
    import mlflow  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    predicted = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame(inputs, columns=list(columns)))
    np.savez(DATA / f"{name}.npz", rows=inputs, answers=np.asarray(predicted, np.float64))
    (DATA / f"{name}.json").write_text(json.dumps({"model": model, "folder": str(folder), "columns": columns}))


def _make_demo() -> None:
    """Seed the demo, whose model answers after a fresh start. Runs first: later, MLflow points to another registry."""
    import mlflow  # noqa: PLC0415

    from app.demo import EXAMPLE, MODEL, seed  # noqa: PLC0415
    from app.settings import load  # noqa: PLC0415

    seed(load(home=DEMO_HOME), lambda _: None)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@champion"))
    _store("start", MODEL, folder, COLUMNS, np.array([EXAMPLE]))


def _store_features() -> None:
    """Store the entities of the demo's feature view as inputs of the linear model; two are for the checks only."""
    from app.demo import COMMODITIES  # noqa: PLC0415

    entities = np.array(list(COMMODITIES.values()))
    inputs = np.vstack([np.resize(entities[:-2], (LOADED, 3)), np.resize(entities[-2:], (CHECKED, 3))])
    _store("features", "linear", SINGLE_HOME / "artifacts" / "linear", COLUMNS, inputs)


if __name__ == "__main__":
    make()
