"""Chat models, agents and streams: the answers of MLflow's scoring server and the events of its agent server."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
    from mlflow.genai.agent_server import server as agent_server
    from mlflow.pyfunc import scoring_server
    from mlflow.pyfunc.utils.serving_data_parser import SUPPORTED_LLM_FORMATS
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from app.adapters.mlflow.loaded_model import LoadedModel
from app.api.mlflow.bodies import JSON_CALL_KEYS
from app.serving.model_spec import ModelSpec
from app.serving.references import parse_ref
from tests.contract.chat_models import MODELS
from tests.fakes import FakeModel, Fakes, make_fakes

MESSAGES = [{"role": "system", "content": "Echo."}, {"role": "user", "content": "one two three"}]
FAILING = [{"role": "user", "content": "one two fail"}]
SIGNATURES = {
    "python": ModelSignature(
        Schema([ColSpec(DataType.string, "prompt")]), params=ParamSchema([ParamSpec("top", DataType.long, 1)])
    )
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Every model, saved and loaded by MLflow. Agents write no traces, which would need a tracking server."""
    folder: Path = tmp_path_factory.mktemp("chat")
    mlflow.tracing.disable()
    loaded = {}
    for name, make in MODELS.items():
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(
                folder / name, python_model=make(), signature=SIGNATURES.get(name), pip_requirements=[]
            )
            loaded[name] = mlflow.pyfunc.load_model(str(folder / name))
    yield loaded
    mlflow.tracing.reset()


def ours(model: Any) -> Fakes:
    """Our gateway over the model."""
    parts = {part: json.loads(text) for part, text in model.metadata.signature.to_dict().items() if text}
    inputs, outputs, params = (parts.get(part) for part in ("inputs", "outputs", "params"))
    loaded = LoadedModel(ModelSpec("model", "1", "python_function", inputs, outputs, params), model)
    invocations = loaded.invocations
    fakes = make_fakes(
        {
            "model": FakeModel(
                loaded.predict,
                inputs,
                outputs,
                params,
                invoke=loaded.invoke,
                stream=loaded.stream if invocations.streams else None,
                takes_json=invocations.takes_json,
            )
        }
    )
    fakes.default_model = parse_ref("model")
    return fakes


async def post(app: Any, body: Any, path: str = "/invocations") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post(path, json=body)


def events(answer: httpx.Response) -> list[str]:
    """The data of each event, whose framing is checked."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == "text/event-stream"
    *frames, rest = answer.text.split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [frame.removeprefix("data: ") for frame in frames]


def test_the_keys_of_json_calls_are_mlflows() -> None:
    assert JSON_CALL_KEYS == SUPPORTED_LLM_FORMATS


CALLS = [
    ("chat", {"messages": MESSAGES}),
    ("chat", {"messages": MESSAGES, "temperature": 0.25, "max_tokens": 5, "stream": False}),
    ("chat", {"inputs": {"messages": MESSAGES}}),
    ("chat", {"dataframe_records": [{"messages": MESSAGES}]}),
    ("chat", {"dataframe_split": {"columns": ["messages"], "data": [[MESSAGES]]}}),
    ("silent", {"messages": MESSAGES}),
    ("agent", {"messages": MESSAGES}),
    ("agent", {"messages": MESSAGES, "custom_inputs": {"a": [1, None]}, "context": {"user_id": "me"}}),
    ("responses", {"input": [{"role": "user", "content": "one two"}]}),
    ("responses", {"input": [{"role": "user", "content": "é €"}], "custom_inputs": {"k": {"deep": 1.5}}}),
    ("python", {"prompt": "one two", "top": 3}),
    ("python", {"prompt": "one two", "unknown": 3}),
    ("python", {"prompt": ["one", "two"]}),
]


@pytest.mark.parametrize(("name", "body"), CALLS)
async def test_answers_equal_the_scoring_servers(
    name: str, body: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # as the server itself does, which leaves it so
    theirs = await post(scoring_server.init(models[name]), body)
    mine = await post(ours(models[name]).app, body)
    assert theirs.status_code == 200, theirs.text
    assert mine.content == theirs.content
    assert mine.headers["content-type"] == "application/json"
    assert mine.headers["x-model-version"] == "1"


WRONG = [
    ("chat", {"messages": "hello"}, "messages"),
    ("chat", {"messages": [{"content": "hello"}]}, "role"),
    ("chat", {"messages": [{"role": 1, "content": "hello"}]}, "messages[0].role"),
    ("chat", {"messages": MESSAGES, "temperature": "hot"}, "temperature"),
    ("chat", {"messages": MESSAGES, "stream": "yes"}, "stream"),
    ("chat", {"input": "hello"}, "messages"),
    ("agent", {"messages": [{"content": "hello"}]}, "role"),
    ("agent", {"messages": MESSAGES, "context": {"user_id": 1}}, "user_id"),
    ("responses", {"input": "hello"}, "input"),
    ("responses", {"input": [{"role": "user"}]}, "input.0.content"),
    ("responses", {"messages": MESSAGES}, "input"),
    ("python", {"prompt": 1}, "prompt"),
    ("python", {"messages": MESSAGES}, "prompt"),
    ("python", {"prompt": "one", "top": "many"}, "top"),
]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("name", "body", "field"), WRONG)
async def test_wrong_bodies_are_refused_by_field(
    name: str, body: Any, field: str, streams: bool, models: dict[str, Any]
) -> None:
    theirs = await post(scoring_server.init(models[name]), body)
    assert theirs.status_code == 400
    sent = {**body, "stream": True} if streams and "stream" not in body else body
    mine = await post(ours(models[name]).app, sent)
    assert mine.status_code == 400, mine.text
    assert mine.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert field in mine.json()["message"]
    assert len(mine.json()["message"]) < 400


STREAMED = [
    ("chat", {"messages": MESSAGES}),
    ("chat", {"messages": MESSAGES, "temperature": 0.25}),
    ("agent", {"messages": MESSAGES, "custom_inputs": {"a": [1, None]}, "context": {"user_id": "me"}}),
    ("responses", {"input": [{"role": "user", "content": "one é €"}]}),
    ("python", {"prompt": "one two"}),
]


@pytest.mark.parametrize(("name", "body"), STREAMED)
async def test_events_equal_the_agent_servers(
    name: str, body: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_server, "_stream_function", models[name].predict_stream)
    theirs = await post(agent_server.AgentServer().app, {**body, "stream": True})
    mine = await post(ours(models[name]).app, {**body, "stream": True})
    assert events(mine) == events(theirs)
    assert len(events(mine)) > 2
    assert events(mine)[-1] == "[DONE]"
    assert {key: mine.headers[key] for key in ("cache-control", "x-accel-buffering", "x-model-version")} == {
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-model-version": "1",
    }
    assert "content-length" not in mine.headers


@pytest.mark.parametrize(
    "body", [{"inputs": {"prompt": ["one two"]}, "params": {"top": 3}}, {"prompt": "one two", "top": 3}]
)
async def test_rows_and_parameters_stream_as_pyfunc_does(body: Any, models: dict[str, Any]) -> None:
    expected = list(models["python"].predict_stream({"prompt": "one two"}, params={"top": 3}))
    mine = events(await post(ours(models["python"]).app, {**body, "stream": True}))
    assert [*map(json.loads, mine[:-1])] == expected


async def test_an_error_in_a_stream_becomes_an_event(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"messages": FAILING, "stream": True}
    monkeypatch.setattr(agent_server, "_stream_function", models["chat"].predict_stream)
    with caplog.at_level(logging.CRITICAL):
        theirs = events(await post(agent_server.AgentServer().app, body))
    fakes = ours(models["chat"])
    answer = await post(fakes.app, body)
    mine = events(answer)
    assert [mine[:2], mine[3:]] == [theirs[:2], theirs[3:]]
    assert json.loads(theirs[2]).keys() == {"error"}
    fault = json.loads(mine[2])
    assert fault == {
        "error": "the model raised ValueError while predicting; the log has the cause",
        "error_code": "INTERNAL_ERROR",
        "request_id": answer.headers["x-request-id"],
    }
    assert "/secret/path" not in answer.text
    assert fakes.recorder.failures == [("model", "model_failed")]
    assert fakes.recorder.predictions == []


async def test_an_error_before_the_first_event_has_a_status(models: dict[str, Any]) -> None:
    answer = await post(ours(models["agent"]).app, {"messages": [{"role": "user", "content": "fail"}], "stream": True})
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")


@pytest.mark.parametrize("body", [{"messages": MESSAGES}, {"dataframe_records": [{"messages": MESSAGES}]}])
async def test_a_model_without_a_stream_says_so(body: Any, models: dict[str, Any]) -> None:
    answer = await post(ours(models["silent"]).app, {**body, "stream": True})
    assert answer.status_code == 400
    assert "model/versions/1 cannot stream" in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/serve", {"model_name": "model", "data": {"messages": MESSAGES}}),
        ("/v1/models/model:predict", {"instances": [{"messages": MESSAGES}]}),
        ("/v2/models/model/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}),
    ],
)
async def test_dialects_of_rows_name_the_endpoint_of_chats(path: str, body: Any, models: dict[str, Any]) -> None:
    answer = await post(ours(models["chat"]).app, body, path)
    assert answer.status_code == 400
    assert "/invocations/model" in answer.text
