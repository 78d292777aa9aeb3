"""Chat models and agents on the running platform: answers and events through the load balancer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clashing import PATIENCE
from tests.platform import URL, Platform
from tests.scrape import total

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

ROW = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}
DEMO = f"{URL}/v1/models/commodity_price_predictor:predict"


def messages(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def word(event: str) -> str:
    """The word of one event of the chat agent."""
    content: str = json.loads(event.removeprefix("data: "))["delta"]["content"]
    return content


def lines(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def streams(name: str) -> float:
    """The streams in progress of a model."""
    return total(f'ml_serve_streams{{model="{name}",version="1"}}')


def predict() -> None:
    answer = httpx.post(DEMO, json={"instances": [ROW]}, timeout=60)
    assert len(answer.raise_for_status().json()["predictions"]) == 1


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Names of the files by which a stream waits and tells that it has ended."""
    return {"gate": str(tmp_path / "gate"), "closed": str(tmp_path / "closed")}


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("echo-chat", messages("one two"), "one two at 1.0, 1 messages"),
        ("echo-agent", messages("one two"), "one two"),
        ("echo-isolated", messages("one two"), "one two"),
        ("echo-responses", {"input": [{"role": "user", "content": "one two"}]}, "one two"),
        ("echo-python", {"prompt": "one two"}, "one two"),
    ],
)
def test_chat_models_and_agents_answer_and_stream(platform: Platform, name: str, body: Any, words: str) -> None:
    answer = httpx.post(f"{URL}/invocations/{name}", json=body, headers=PATIENCE, timeout=330)
    assert answer.status_code == 200, answer.text
    assert words in answer.text
    assert "predictions" not in answer.json()
    events = httpx.post(f"{URL}/invocations/{name}", json={**body, "stream": True}, timeout=120)
    assert events.status_code == 200, events.text
    assert events.headers["content-type"] == "text/event-stream"
    assert events.headers["x-model-version"] == "1"
    found = [line for line in events.text.splitlines() if line]
    assert found[-1] == "data: [DONE]"
    assert "one" in found[0]
    assert "two" in found[1]


@pytest.mark.parametrize("name", ["echo-agent", "echo-isolated"])
def test_events_arrive_while_the_model_works(platform: Platform, name: str, files: dict[str, str]) -> None:
    """The model yields its second word only after the caller has read the first, and rows are answered meanwhile."""
    body = {**messages("one two three"), "custom_inputs": files, "stream": True}
    with httpx.stream("POST", f"{URL}/invocations/{name}", json=body, timeout=120) as answer:
        events = lines(answer)
        assert word(next(events)) == "one"
        assert not Path(files["closed"]).exists()
        predict()
        Path(files["gate"]).touch()
        assert [word(event) for event in (next(events), next(events))] == ["two", "three"]
        assert list(events) == ["data: [DONE]"]
    assert Path(files["closed"]).exists()


@pytest.mark.parametrize("name", ["echo-agent", "echo-isolated"])
def test_a_disconnect_stops_the_generator(platform: Platform, name: str, files: dict[str, str]) -> None:
    body = {**messages("one forever"), "custom_inputs": {"closed": files["closed"]}, "stream": True}
    with httpx.stream("POST", f"{URL}/invocations/{name}", json=body, timeout=120) as answer:
        events = lines(answer)
        assert [word(next(events)) for _ in range(4)] == ["one", "forever", "forever", "forever"]
        until(lambda: streams(name) == 1)
    until(Path(files["closed"]).exists)
    until(lambda: streams(name) == 0)


def test_the_deadline_stops_a_stream_before_its_first_event(platform: Platform, files: dict[str, str]) -> None:
    body = {**messages("forever"), "custom_inputs": {"closed": files["closed"], "wait": files["gate"]}, "stream": True}
    headers = {"x-request-timeout-seconds": "3"}  # enough for the generator to start
    answer = httpx.post(f"{URL}/invocations/echo-agent", json=body, headers=headers, timeout=120)
    assert (answer.status_code, answer.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
    Path(files["gate"]).touch()  # its thread goes on to the first event
    until(Path(files["closed"]).exists)


def test_streams_leave_threads_for_rows_and_are_bounded(platform: Platform, files: dict[str, str]) -> None:
    """A replica has 16 stream threads by default, and there are at most two replicas."""
    body = {**messages("one two"), "custom_inputs": {"gate": files["gate"]}, "stream": True}
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(timeout=120, limits=limits) as client:
        answers = []
        while True:
            request = client.build_request("POST", f"{URL}/invocations/echo-agent", json=body)
            answer = client.send(request, stream=True)
            if answer.status_code == 429:
                break
            assert answer.status_code == 200
            answers.append(answer)
            assert len(answers) <= 32
        assert answer.read()
        assert answer.json()["error_code"] == "RESOURCE_EXHAUSTED"
        assert answer.headers["retry-after"] == "1"
        answer.close()
        assert len(answers) >= 16
        for _ in range(20):
            predict()
        Path(files["gate"]).touch()
        assert {list(lines(one))[-1] for one in answers} == {"data: [DONE]"}


def test_an_error_in_a_stream_is_its_last_event_but_one(platform: Platform) -> None:
    body = {**messages("one fail"), "stream": True}
    found = list(lines(httpx.post(f"{URL}/invocations/echo-agent", json=body, timeout=120)))
    assert word(found[0]) == "one"
    fault = json.loads(found[1].removeprefix("data: "))
    assert fault["error"] == "the model raised ValueError while predicting; the log has the cause"
    assert found[2:] == ["data: [DONE]"]


def test_chat_models_cannot_stream_rows(platform: Platform) -> None:
    answer = httpx.post(f"{URL}/invocations/echo-silent", json={**messages("one"), "stream": True}, timeout=120)
    assert answer.status_code == 400
    assert "cannot stream" in answer.json()["message"]
    answer = httpx.post(f"{URL}/v1/models/echo-chat:predict", json={"instances": [messages("one")]}, timeout=120)
    assert answer.status_code == 400
    assert "/invocations/echo-chat" in answer.text
