"""Automatic rollback on the platform, from the gateways' counters to the alias."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.control.auto_rollback import LAST_TAG
from tests.platform import URL, Platform
from tests.registered import registry, tracking

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

NAME = "failing"
WITHIN_S = 60.0


def log(number: int) -> str:
    """Log a version and return its model id: the first returns its input, the second raises on all but its example."""
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            if number > 1 and (model_input["x"] > 0).any():
                raise ValueError("not today")
            return model_input["x"].to_numpy()

    info = mlflow.pyfunc.log_model(
        name="python",
        python_model=Model(),
        signature=ModelSignature(Schema([ColSpec(DataType.double, "x")])),
        input_example=pd.DataFrame({"x": [-1.0]}),
        pip_requirements=[],
    )
    return str(info.model_id)


@pytest.fixture
def client(platform: Platform) -> Iterator[Any]:
    import mlflow

    client = registry(platform.home)
    client.create_registered_model(NAME)
    with tracking(platform.home), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with mlflow.start_run(experiment_id=client.get_experiment_by_name("tests").experiment_id):
            models = [log(number) for number in (1, 2)]
        for model_id in models:
            version = client.create_model_version(NAME, f"models:/{model_id}", model_id=model_id).version
            if str(version) == "1":  # before version 2 exists, or a poll in between makes that one answer the bare name
                client.set_registered_model_alias(NAME, "champion", "1")
    rule = {"error_rate": 0.05, "window_s": 30, "min_requests": 20}
    client.set_registered_model_tag(NAME, "serving.rollback", json.dumps(rule))
    yield client
    client.delete_registered_model(NAME)


def test_a_version_that_fails_is_rolled_back_automatically(client: Any) -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:

        def ask() -> httpx.Response:
            return http.post(f"/v1/models/{NAME}:predict", json={"instances": [{"x": 2.0}]})

        assert [ask().status_code for _ in range(50)] == [200] * 50
        promoted = http.post(f"/v1/models/{NAME}:promote", json={"version": "2"})
        assert promoted.status_code == 200, promoted.text
        deadline = time.monotonic() + WITHIN_S
        statuses = [ask().status_code]
        while statuses[-1] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            statuses.append(ask().status_code)
        assert statuses[0] == 500
        assert str(client.get_registered_model(NAME).aliases["champion"]) == "1"
        why = http.get(f"/v1/models/{NAME}").json()["model"]["live"]["champion"]["why"]
        assert why.startswith("rolled back by rule: error rate 100.0 %")
        while LAST_TAG not in client.get_registered_model(NAME).tags:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        record = json.loads(client.get_registered_model(NAME).tags[LAST_TAG])
        assert (record["alias"], record["from"], record["to"]) == ("champion", "2", "1")
