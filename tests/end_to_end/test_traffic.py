"""Traffic splits and shadows on the platform, set by tags in MLflow, and compared over all replicas."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest

from app.oip import inference_pb2 as pb
from app.serving.releases.traffic import Traffic, Variant
from ml_serve_client import Client, Comparison
from tests import numbered
from tests.grpc_stub import make_stub
from tests.platform import URL, Platform
from tests.registered import registry, tracking
from tests.scrape import total

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

NAME = "divided"
SESSIONS = [f"session-{n}" for n in range(40)]
# The same weights as the platform has, to look up each session here.
SPLIT = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))
WITHIN_S = 120.0


@pytest.fixture(scope="module")
def model(platform: Platform) -> Iterator[Any]:
    """Register a model with two versions, the first one as champion."""
    import mlflow

    client = registry(platform.home)
    client.create_registered_model(NAME)
    with tracking(platform.home), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with mlflow.start_run(experiment_id=client.get_experiment_by_name("tests").experiment_id):
            models = [numbered.log(number) for number in (1, 2)]
        for model_id, alias in zip(models, ("champion", "challenger"), strict=True):
            version = str(client.create_model_version(NAME, f"models:/{model_id}", model_id=model_id).version)
            client.set_registered_model_alias(NAME, alias, version)  # at once, or version 2 may answer the bare name
    client.set_registered_model_tag(NAME, "serving.shadow", "challenger")
    yield client
    client.delete_registered_model(NAME)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=URL, timeout=60) as client:
        yield client


def ask(http: httpx.Client, session: str | None = None, ref: str = NAME) -> str:
    """Return the version that answered; its answer must say the same."""
    headers = {"x-session-id": session} if session else {}
    body = {"instances": [{"x": 5.0, "sent": time.time()}]}
    response = http.post(f"/v1/models/{ref}:predict", json=body, headers=headers)
    assert response.status_code == 200, response.text
    version = response.headers["x-model-version"]
    assert numbered.decode(response.json()["predictions"][0], 5.0).version == version
    return version


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_shadow_gets_copies_and_differences_are_reported(model: Any, http: httpx.Client) -> None:
    def found() -> Comparison:
        with Client(URL) as client:
            return client.compare(NAME, "champion", "challenger")

    shadow = None
    deadline = time.monotonic() + WITHIN_S
    while shadow is None or shadow.requests < 40:
        assert time.monotonic() < deadline, shadow
        assert {ask(http) for _ in range(10)} == {"1"}
        shadow = found().shadow
    assert shadow.difference is not None
    # The second version answers a step more than the first.
    assert shadow.difference.value == pytest.approx(numbered.STEP, abs=1)
    assert (shadow.errors, shadow.mismatch_rate is not None) == ({}, True)
    name = 'ml_serve_shadow_requests_total{model="divided",outcome="compared",shadow_version="2",version="1"}'
    until(lambda: total(name) > 0)


def test_sessions_stay_with_one_version_over_http_and_grpc(model: Any, http: httpx.Client) -> None:
    model.set_registered_model_tag(NAME, "serving.traffic", json.dumps({"champion": 50, "challenger": 50}))
    until(lambda: ask(http) == "2")
    expected = {session: SPLIT.choose(NAME, session) for session in SESSIONS}
    until(lambda: {session: ask(http, session) for session in SESSIONS} == expected)  # on every replica
    assert {session: ask(http, session) for session in SESSIONS} == expected
    assert {ask(http, ref=f"{NAME}@champion") for _ in range(10)} == {"1"}
    assert {ask(http, ref=f"{NAME}/versions/2") for _ in range(10)} == {"2"}

    message = pb.ModelInferRequest(model_name=NAME)
    for name, value in {"x": 5.0, "sent": time.time()}.items():
        message.inputs.add(name=name, datatype="FP64", shape=[1]).contents.fp64_contents.append(value)
    with grpc.insecure_channel("127.0.0.1:9000") as channel:
        stub = make_stub(channel)
        seen = {
            session: stub.ModelInfer(message, metadata=[("x-session-id", session)]).model_version
            for session in SESSIONS
        }
    assert seen == expected


def test_split_calls_are_compared_over_all_replicas(model: Any, http: httpx.Client) -> None:
    for _ in range(200):
        ask(http)
    deadline = time.monotonic() + WITHIN_S
    with Client(URL) as client:
        found = client.compare(NAME, "champion", 2)
        while found.base.requests + found.other.requests < 200:  # a gateway that was silent for a while is left out
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
            found = client.compare(NAME, "champion", 2)
    assert found.counted == "divided"
    assert found.base.since is not None
    assert (found.base.faults, found.other.faults) == (0, 0)
    assert found.prediction is not None
    assert found.prediction.verdict == "higher"
    assert found.prediction.value == pytest.approx(numbered.STEP, abs=1)
    assert found.latency_s is not None
