"""MLflow's own interfaces to deployments, against a gateway over fakes on a real port."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import mlflow.deployments
import numpy as np
import pandas as pd
import pytest
from mlflow.deployments.interface import _target_help
from mlflow.exceptions import MlflowException

from app.errors import ModelUnavailable
from tests.fakes import FakeModel, Fakes, columns, make_fakes, tensor, total
from tests.server import Server

MODEL = "commodity_price_predictor"
COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")


def prices(offset: float) -> FakeModel:
    return FakeModel(lambda batch: tensor(np.round(np.sum(batch.arrays, axis=0) + offset, 2)), columns(*COLUMNS))


@pytest.fixture
def fakes() -> Fakes:
    times = [{"name": "t", "type": "datetime", "required": True}, {"name": "w", "type": "string", "required": False}]
    return make_fakes(
        {
            MODEL: prices(0),
            f"{MODEL}/versions/2": prices(1),
            "sum": total("a", "b"),
            "sum/versions/2": total("a", "b", offset=100),
            "sum/versions/3": total("a", "b", "c"),
            "words": FakeModel(lambda batch: tensor(np.array([w or "none" for w in batch.arrays[1]])), times),
            "free": FakeModel(lambda batch: tensor(batch.arrays[0].sum(axis=1))),
            "unloadable": FakeModel(
                lambda batch: tensor(np.zeros(1)), error=ModelUnavailable("its library is missing")
            ),
        },
        aliases={name: {"champion": "1", "challenger": "2"} for name in (MODEL, "sum")},
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(running: Server, fakes: Fakes) -> Server:
    running.app = fakes.app
    return running


@pytest.fixture
def client(server: Server) -> Any:
    return mlflow.deployments.get_deploy_client(f"ml-serve:{server.url}")


def states(client: Any, name: str = "sum") -> dict[str, str]:
    return {number: facts["state"] for number, facts in client.get_deployment(name)["versions"].items()}


# Deploying


def test_mlflow_finds_the_plugin_by_its_entry_point() -> None:
    client = mlflow.deployments.get_deploy_client("ml-serve")
    assert type(client).__module__ == "app.mlflow_plugin"
    assert "ml-serve:http://HOST:PORT" in _target_help("ml-serve")


def test_a_new_deployment_is_warm_and_moves_no_alias(client: Any) -> None:
    made = client.create_deployment("sum", "models:/sum/2")
    assert (made["name"], made["flavor"], made["version"], made["default"]) == ("sum", "python_function", "2", "1")
    assert states(client) == {"1": "cold", "2": "ready", "3": "cold"}
    assert client.create_deployment("sum", "models:/sum@challenger", "python_function")["version"] == "2"
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("promote", [True, "true", "1"])
def test_a_new_deployment_may_be_promoted(client: Any, promote: Any) -> None:
    assert (
        client.create_deployment("sum", "models:/sum/2", config={"promote": promote, "timeout": "5"})["default"] == "2"
    )


def test_an_update_is_what_callers_get(client: Any) -> None:
    assert client.update_deployment("sum", "models:/sum@challenger")["default"] == "2"
    assert client.predict("sum", {"a": [1], "b": [2]})["predictions"] == [103]
    assert client.update_deployment("sum", "models:/sum/1", config={"promote": "false"})["default"] == "2"
    assert states(client) == {"1": "ready", "2": "ready", "3": "cold"}


def test_another_alias_may_be_moved(client: Any) -> None:
    moved = client.update_deployment("sum", "models:/sum/1", config={"alias": "challenger"})
    assert (moved["default"], moved["aliases"]["challenger"]) == ("1", "1")


def test_what_takes_other_inputs_is_an_update_by_force_only(client: Any) -> None:
    with pytest.raises(MlflowException, match="takes other inputs") as caught:
        client.update_deployment("sum", "models:/sum/3")
    assert caught.value.error_code == "RESOURCE_CONFLICT"
    assert client.get_deployment("sum")["default"] == "1"
    assert client.update_deployment("sum", "models:/sum/3", config={"force": "true"})["default"] == "3"


def test_a_deletion_lets_every_version_go_and_may_be_repeated(client: Any) -> None:
    client.create_deployment("sum", "models:/sum/1")
    client.create_deployment("sum", "models:/sum/2")
    client.delete_deployment("sum@challenger")
    assert states(client) == {"1": "ready", "2": "cold", "3": "cold"}
    client.create_deployment("sum", "models:/sum/2")
    client.delete_deployment("sum")
    client.delete_deployment("sum")
    client.delete_deployment("nope")
    assert states(client) == {"1": "cold", "2": "cold", "3": "cold"}


def test_deployments_are_the_registered_models(client: Any) -> None:
    found = client.list_deployments()
    assert [one["name"] for one in found] == [MODEL, "free", "sum", "unloadable", "words"]
    assert found[2] == client.get_deployment("sum")
    assert found[2]["aliases"] == {"champion": "1", "challenger": "2"}


@pytest.mark.parametrize(
    ("name", "uri", "message"),
    [
        ("sum", "runs:/abc/model", r"register_model\('runs:/abc/model', 'sum'\), then deploy models:/sum/VERSION"),
        ("sum", "s3://bucket/model", "serves registered models only"),
        ("sum", "models:/sum", "names no version"),
        ("sum", "models:/sum/latest", "names no version"),
        ("sum", "models:/sum/Production", "names no version"),
        ("sum", "models:/m-0123456789abcdef", "names no version"),
        ("total", "models:/sum/1", "'sum', not 'total'"),
        ("sum@champion", "models:/sum/1", "'sum', not 'sum@champion'"),
    ],
)
def test_a_model_uri_that_cannot_be_served_is_refused(client: Any, name: str, uri: str, message: str) -> None:
    for deploy in (client.create_deployment, client.update_deployment):
        with pytest.raises(MlflowException, match=message) as caught:
            deploy(name, uri)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavor": "sklearn"}, "flavor 'sklearn' is not supported"),
        ({"endpoint": "e"}, "no endpoints"),
        ({"config": {"promote": "perhaps"}}, "'promote' is 'perhaps', expected true or false"),
        ({"config": {"promote": True, "force": "perhaps"}}, "'force' is 'perhaps', expected true or false"),
        ({"config": {"promote": True, "alias": ""}}, "'alias' is '', expected an alias"),
        ({"config": {"force": True}}, "need 'promote'"),
        ({"config": {"alias": "challenger"}}, "need 'promote'"),
        ({"config": {"timeout": "0"}}, "'timeout' is '0', expected seconds"),
        ({"config": {"replicas": 2}}, "'replicas' is unknown"),
    ],
)
def test_what_is_not_offered_is_refused(client: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        client.create_deployment("sum", "models:/sum/1", **options)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert states(client) == {"1": "cold", "2": "cold", "3": "cold"}


def test_run_local_deploys_to_the_gateway_of_this_machine(
    server: Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.mlflow_plugin.DEFAULT_URL", server.url)
    mlflow.deployments.run_local("ml-serve", "sum", "models:/sum/2", config={"promote": True})
    assert client.get_deployment("sum")["default"] == "2"


# Predicting


def test_every_kind_of_input_is_predicted(client: Any) -> None:
    frame = pd.DataFrame({"a": [1, 3], "b": [2.0, np.nan]}, index=[5, 6])
    for inputs in (frame, dict(frame), {"a": np.array([1, 3]), "b": [2.0, None]}, frame.to_numpy()):
        answer = client.predict("sum", inputs)
        assert isinstance(answer, mlflow.deployments.PredictionsResponse)
        assert answer["predictions"] == [3, None]
        assert (answer["model_name"], answer["model_version"]) == ("sum", "1")
    assert client.predict("sum", {"a": 1, "b": 2})["predictions"] == [3]
    assert client.predict("sum", [{"a": 1, "b": 2}])["predictions"] == [3]
    assert client.predict("sum/versions/2", frame)["predictions"] == [103, None]
    assert client.predict("free", pd.Series([[1, 2], [3, 4]]))["predictions"] == [3, 7]


def test_times_and_missing_texts_are_sent(client: Any, fakes: Fakes) -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2026-01-02", "2026-01-03"]), "w": ["a", None]})
    for inputs in (frame, {"t": frame["t"].to_numpy(), "w": frame["w"]}):
        assert client.predict("words", inputs)["predictions"] == ["a", "none"]
        assert fakes.runner.batches[-1][1].arrays[0][0] == np.datetime64("2026-01-02")


def test_an_answer_becomes_a_frame_or_an_array(client: Any) -> None:
    answer = client.predict("sum", {"a": [1, 3], "b": [2, 4]})
    assert answer.get_predictions()[0].tolist() == [3, 7]
    assert answer.get_predictions("ndarray").tolist() == [3, 7]
    assert json.loads(answer.to_json())["predictions"] == [3, 7]


# Errors


def test_errors_are_mlflow_exceptions_with_their_codes(client: Any, fakes: Fakes) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "RESOURCE_DOES_NOT_EXIST": lambda: client.get_deployment("nope"),
        "INVALID_PARAMETER_VALUE": lambda: client.predict("sum", {"a": [1]}),
        "TEMPORARILY_UNAVAILABLE": lambda: client.create_deployment("unloadable", "models:/unloadable/1"),
    }
    for code, call in calls.items():
        with pytest.raises(MlflowException) as caught:
            call()
        assert caught.value.error_code == code
    for inputs in ({"a": [object()]}, {"a": [np.inf], "b": [1]}, None):
        with pytest.raises(MlflowException) as caught:
            client.predict("sum", inputs)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    with pytest.raises(MlflowException, match="no model"):
        client.predict(inputs={})
    with pytest.raises(MlflowException, match="no version"):
        client.update_deployment("sum")


def test_what_is_not_implemented_says_so(client: Any) -> None:
    for method in ("explain", "predict_stream"):
        with pytest.raises(MlflowException, match="does not") as caught:
            getattr(client, method)("sum", pd.DataFrame())
        assert caught.value.error_code == "NOT_IMPLEMENTED"


@pytest.mark.parametrize("target", ["ml-serve:/tmp", "ml-serve:ftp://host", "ml-serve:http://"])
def test_an_invalid_target_is_refused(target: str) -> None:
    with pytest.raises(MlflowException, match="ml-serve:http://HOST:PORT"):
        mlflow.deployments.get_deploy_client(target)


def test_an_unreachable_gateway_is_an_error() -> None:
    with pytest.raises(MlflowException, match="ml-serve up") as caught:
        mlflow.deployments.get_deploy_client("ml-serve:http://127.0.0.1:1").list_deployments()
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
