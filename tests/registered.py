"""Models in the registry of the platform under test: those of the parity tests, and some that misbehave."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
from mlflow import MlflowClient
from mlflow.types import ColSpec, DataType

from app.settings import Settings
from tests.adapters import test_model_parity as parity

SLOW_S = 0.5


def sleep(data: Any, params: Any) -> Any:
    """Answers its input, late."""
    time.sleep(SLOW_S)
    return data["x"].to_numpy()


def choke(data: Any, params: Any) -> Any:
    """Raises on 13."""
    if (data["x"] == 13).any():
        raise ValueError("thirteen, says /secret/path")
    return data["x"].to_numpy() * 2


def shorten(data: Any, params: Any) -> Any:
    """Answers a row less than it was given."""
    return data["x"].to_numpy()[1:]


ONE_DOUBLE = [ColSpec(DataType.double, "x")]
FURTHER = [
    parity.Case("slow", parity.log_python(sleep, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("choking", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("short", parity.log_python(shorten, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("broken", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
    parity.Case("moving", parity.log_python(choke, ONE_DOUBLE), parity.numbers("x")),
]


def name_of(case: parity.Case) -> str:
    """The case's name in the registry."""
    return case.name.replace(" ", "-")


def settings_of(home: Path) -> Settings:
    """Settings of a platform with this home."""
    return Settings(home=home)


def register(home: Path) -> None:
    """Log and register every case's model in the embedded registry under `home`; break the artifacts of `broken`."""
    import mlflow

    settings = settings_of(home)
    home.mkdir(parents=True, exist_ok=True)
    # The functions of these modules travel inside the models: a replica cannot import the tests.
    cloudpickle.register_pickle_by_value(parity)
    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            experiment = mlflow.create_experiment("tests", artifact_location=settings.artifact_root.as_uri())
            for case in [*parity.CASES, *FURTHER]:
                with mlflow.start_run(experiment_id=experiment):
                    info = case.log()
                mlflow.register_model(info.model_uri, name_of(case))
        client = MlflowClient()
        uri = client.get_model_version_download_uri("broken", "1")
        if uri.startswith("models:"):
            uri = mlflow.get_logged_model(uri.rpartition("/")[2]).artifact_location
        (Path(urlsplit(uri).path) / "python_model.pkl").write_bytes(b"no pickle")
    finally:
        mlflow.set_tracking_uri(before)
        cloudpickle.unregister_pickle_by_value(parity)
