"""Register the models of the parity tests, and some that misbehave, in the registry of the platform under test."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import pandas as pd
from mlflow import MlflowClient
from mlflow.types import ColSpec, DataType

from app.serving.batching_contract import ROW_WISE_TAG
from tests.clashing import ship
from tests.contract import chat_models
from tests.contract import test_model_parity as parity
from tests.platform import ROOT

SLOW_S = 0.5


def sleep(data: Any, params: Any) -> Any:
    """Return the input, late."""
    time.sleep(SLOW_S)
    return data["x"].to_numpy()


def choke(data: Any, params: Any) -> Any:
    """Raise on 13, and what `sys.exit()` raises on -14."""
    if (data["x"] == 13).any():
        raise ValueError("thirteen, says /secret/path")
    if (data["x"] == -14).any():
        raise SystemExit(1)
    return data["x"].to_numpy() * 2


def shorten(data: Any, params: Any) -> Any:
    """Return one row too few."""
    return data["x"].to_numpy()[1:]


def add_up(data: Any, params: Any) -> Any:
    """Return running sums."""
    return data["x"].cumsum().to_numpy()


def triple(data: Any, params: Any) -> Any:
    """Return three items per row, as a forecast of three periods does."""
    return [value + period for value in data["x"] for period in range(3)]


def label(data: Any, params: Any) -> Any:
    """Return a tuple of labels and scores."""
    return [f"label {value:g}" for value in data["x"]], (data["x"] / 100).tolist()


def burst(data: Any, params: Any) -> Any:
    """Return one item too many for each 13, and late, so that further requests meet: after a second where one is -1."""
    time.sleep(1.0 if (data["x"] == -1).any() else 0.01)
    return [value for value in data["x"] for _ in range(2 if value == 13 else 1)]


ONE_DOUBLE = [ColSpec(DataType.double, "x")]
EXAMPLE = pd.DataFrame({"x": [1.0]})
PROVEN = {"sums": add_up, "triple": triple, "labels": label, "bursting": burst}
"""Models with an input example, which proves or disproves that they are row-wise."""
FURTHER = [
    parity.Case("slow", parity.log_python(sleep, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("choking", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("short", parity.log_python(shorten, ONE_DOUBLE), parity.numbers("x")),
    *(
        parity.Case(name, parity.log_python(function, ONE_DOUBLE, example=EXAMPLE), parity.numbers("x"))
        for name, function in PROVEN.items()
    ),
    parity.Case("broken", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("moving", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
]


def name_of(case: parity.Case) -> str:
    """Return the name of the case in the registry."""
    return case.name.replace(" ", "-")


def registry_uri(home: Path) -> str:
    """Return the URI of the embedded registry under `home`."""
    return f"sqlite:///{home}/mlflow.db"


def register(home: Path) -> None:
    """Log and register every case's model in the embedded registry under `home`, and the chat models; break `broken`.

    Models without an input example are declared row-wise, but `short`, which is not: so requests of most models meet in
    batches.
    """
    import mlflow

    home.mkdir(parents=True, exist_ok=True)
    # Pickle the functions of these modules into the models, because a replica cannot import the tests.
    cloudpickle.register_pickle_by_value(parity)
    cloudpickle.register_pickle_by_value(chat_models)
    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    with tracking(home):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            experiment = mlflow.create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
            for case in [*parity.CASES, *FURTHER]:
                with mlflow.start_run(experiment_id=experiment):
                    info = case.log()
                mlflow.register_model(info.model_uri, name_of(case))
                if case.name not in ("short", *PROVEN):
                    registry(home).set_registered_model_tag(name_of(case), ROW_WISE_TAG, "true")
            with mlflow.start_run(experiment_id=experiment):
                exec(shown_model(), {"__name__": "__main__"})  # the documentation's own example
            for name, make in chat_models.MODELS.items():
                with mlflow.start_run(experiment_id=experiment):
                    info = mlflow.pyfunc.log_model(name="chat", python_model=make(), pip_requirements=[])
                mlflow.register_model(info.model_uri, f"echo-{name}")
            with mlflow.start_run(experiment_id=experiment):
                agent, code = chat_models.MODELS["agent"](), [str(ship(home / "code", 1))]
                info = mlflow.pyfunc.log_model(name="chat", python_model=agent, pip_requirements=[], code_paths=code)
            mlflow.register_model(info.model_uri, "echo-isolated")  # with code of its own, so it runs in a worker
        client = registry(home)
        uri = client.get_model_version_download_uri("broken", "1")
        if uri.startswith("models:"):
            uri = mlflow.get_logged_model(uri.rpartition("/")[2]).artifact_location
        (Path(urlsplit(uri).path) / "python_model.pkl").write_bytes(b"no pickle")
    cloudpickle.unregister_pickle_by_value(parity)
    cloudpickle.unregister_pickle_by_value(chat_models)


def shown_model() -> str:
    """Return the code of the model in the page on streams."""
    page = (ROOT / "docs" / "serve" / "streaming.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))


def registry(home: Path) -> MlflowClient:
    """Return a client of the embedded registry under `home`."""
    return MlflowClient(registry_uri(home), registry_uri(home))


@contextmanager
def tracking(home: Path) -> Iterator[None]:
    """Make MLflow's functions use the registry under `home`."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(registry_uri(home))
    mlflow.set_registry_uri(registry_uri(home))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
