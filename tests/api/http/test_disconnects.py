"""Callers that disconnect before they are answered, at a real HTTP server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import orjson
import pytest
from prometheus_client import REGISTRY

from app.api.http.serve_middleware import HideHeaders, with_hidden_headers
from tests.fakes import Fakes, make_fakes, total
from tests.server import Server

BODY = orjson.dumps({"model_name": "prices", "data": {"oil": 75.5, "gas": 3.2}})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def slow(server: Server) -> Fakes:
    """A gateway whose model takes longer than any test."""
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 300
    server.app = HideHeaders(with_hidden_headers(fakes.app))
    return fakes


def send(server: Server, body: bytes, length: int | None = None) -> socket.socket:
    caller = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /serve HTTP/1.1\r\nhost: x\r\ncontent-length: {length or len(body)}\r\n\r\n"
    caller.sendall(head.encode() + body)
    return caller


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def counted_499() -> float:
    labels = {"method": "POST", "path": "/serve", "status_code": "499", "app_name": "ml_serve"}
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0


def test_the_work_for_a_disconnected_caller_is_cancelled(server: Server) -> None:
    fakes, before = slow(server), counted_499()
    caller = send(server, BODY)
    until(lambda: fakes.service.admission.rows == 1)
    caller.close()
    until(lambda: fakes.service.admission.requests == 0)
    until(lambda: counted_499() == before + 1)
    assert fakes.service.admission.rows == 0


def test_a_disconnect_cancels_no_other_request(server: Server) -> None:
    fakes = slow(server)
    leaves, stays = send(server, BODY), send(server, BODY)
    until(lambda: fakes.service.admission.requests == 2)
    leaves.close()
    until(lambda: fakes.service.admission.requests == 1)
    time.sleep(0.3)  # longer than it takes to notice a disconnect
    assert fakes.service.admission.requests == 1
    stays.close()
    until(lambda: fakes.service.admission.requests == 0)


def test_an_incomplete_body_is_not_predicted(server: Server) -> None:
    fakes, before = slow(server), counted_499()
    send(server, BODY[:10], len(BODY)).close()
    until(lambda: counted_499() == before + 1)
    assert not fakes.runner.batches


def test_a_slow_request_is_answered(server: Server) -> None:
    fakes = slow(server)
    fakes.runner.delay_s = 0.5
    caller = send(server, BODY)
    answer = caller.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    caller.close()
