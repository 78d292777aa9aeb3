"""Server-sent events at a real HTTP server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from app.api.http.serve_middleware import HideHeaders, with_hidden_headers
from app.errors import Overloaded
from tests.fakes import FakeModel, Fakes, make_fakes, total
from tests.server import Server

BODY = {"messages": [], "stream": True}


class Gated:
    """Yields a second event once `gate` is set; `closed` says that it was closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.closed = threading.Event()

    def __call__(self, body: bytes) -> Generator[str]:
        try:
            yield json.dumps("first")
            while not self.gate.is_set():
                yield json.dumps("tick")
            yield json.dumps("last")
        finally:
            self.closed.set()


def _refuse() -> list[str]:
    raise Overloaded("all 16 stream threads are busy; try again in 1 s", {"retry_after_s": 1})


def refused(body: bytes) -> Generator[str]:
    yield from _refuse()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def serve(server: Server, stream: Callable[[bytes], Generator[str]], delay_s: float = 0.01) -> Fakes:
    fakes = make_fakes({"chat": FakeModel(total("x").predict, stream=stream), "rows": total("x")})
    fakes.runner.delay_s = delay_s
    server.app = HideHeaders(with_hidden_headers(fakes.app))
    return fakes


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def counted(status: int) -> float:
    labels = {"method": "POST", "path": "/invocations/{ref:path}", "status_code": str(status), "app_name": "ml_serve"}
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0


def test_the_first_event_arrives_while_the_model_works(server: Server) -> None:
    gated, before = Gated(), counted(200)
    serve(server, gated)
    with httpx.stream("POST", f"{server.url}/invocations/chat", json=BODY) as answer:
        lines = answer.iter_lines()
        assert next(lines) == 'data: "first"'
        assert not gated.closed.is_set()
        gated.gate.set()
        rest = [line for line in lines if line and line != 'data: "tick"']
    assert rest == ['data: "last"', "data: [DONE]"]
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "x-request-id" in answer.headers
    until(lambda: counted(200) == before + 1)


def test_a_disconnect_stops_the_model(server: Server) -> None:
    gated, before = Gated(), counted(499)
    fakes = serve(server, gated)
    with httpx.stream("POST", f"{server.url}/invocations/chat", json=BODY) as answer:
        assert next(answer.iter_lines()) == 'data: "first"'
    assert gated.closed.wait(10)
    until(lambda: counted(499) == before + 1)
    ((_, started), (_, events)) = fakes.recorder.streams
    assert started is None
    assert events is not None
    assert events > 0


def test_a_disconnect_before_the_first_event_stops_it(server: Server) -> None:
    started, closed = threading.Event(), threading.Event()

    def stream(body: bytes) -> Generator[str]:
        started.set()
        try:
            yield ""
        finally:
            closed.set()

    fakes = serve(server, stream, delay_s=300)
    client = httpx.Client(timeout=0.5)
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{server.url}/invocations/chat", json=BODY)
    client.close()
    assert started.is_set()
    assert closed.wait(10)
    until(lambda: fakes.service.admission.requests == 0)


def test_a_deadline_before_the_first_event_is_a_504(server: Server) -> None:
    serve(server, Gated(), delay_s=300)
    headers = {"x-request-timeout-seconds": "0.3"}
    answer = httpx.post(f"{server.url}/invocations/chat", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")


def test_a_refused_stream_is_a_429(server: Server) -> None:
    serve(server, refused)
    answer = httpx.post(f"{server.url}/invocations/chat", json=BODY)
    assert (answer.status_code, answer.json()["error_code"]) == (429, "RESOURCE_EXHAUSTED")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"inputs": {"x": [1]}, "stream": False}, 200, ""),
        ({"inputs": {"x": [1]}, "stream": True}, 400, "rows/versions/1 cannot stream"),
        ({"inputs": {"x": [1]}, "stream": "yes"}, 400, "'stream'"),
        ({"stream": True}, 400, "exactly one of"),
        ([], 400, "JSON object"),
        ({"messages": []}, 400, "does not take this body"),
    ],
)
def test_rows_are_answered_as_before(server: Server, body: Any, status: int, words: str) -> None:
    serve(server, Gated())
    answer = httpx.post(f"{server.url}/invocations/rows", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text
