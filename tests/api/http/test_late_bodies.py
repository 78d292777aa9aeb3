"""Bodies that arrive slowly, or together take too much memory, at a real HTTP server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from app.api.http.disconnects import DisconnectWatch
from app.api.http.exchange import Exchange, HttpLimits
from app.api.http.serve_middleware import HideHeaders, with_hidden_headers
from tests.fakes import HTTP_LIMITS, make_fakes, total
from tests.server import Server

BODY = orjson.dumps({"model_name": "prices", "data": {"oil": 75.5, "gas": 3.2}})
LARGE = BODY[:-1] + b" " * 900_000 + b"}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def serve(server: Server, timeout_s: float) -> None:
    limits = HttpLimits(body_bytes=1_000_000, json_depth=16, timeout_s=timeout_s, arriving_bytes=1_000_000)
    fakes = make_fakes({"prices": total("oil", "gas")}, http_limits=limits)
    server.app = HideHeaders(with_hidden_headers(fakes.app))


def send(server: Server, body: bytes, length: int | None = None) -> socket.socket:
    """Send a head with a length, and a body or its beginning."""
    caller = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST /serve HTTP/1.1\r\nhost: x\r\ncontent-length: {length or len(body)}\r\n\r\n"
    caller.sendall(head.encode() + body)
    return caller


def answer(caller: socket.socket) -> tuple[int, str, bool]:
    """Return the status, the error's code, and whether the connection closes; close it."""
    received = b""
    with caller:
        try:
            while part := caller.recv(65536):
                received += part
                if received.startswith(b"HTTP/1.1 200") and received.endswith(b"}"):
                    return 200, "", False
        except ConnectionResetError:  # the server closed while the body was on its way
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head[9:12]), orjson.loads(body)["error"]["code"], b"connection: close" in head


@pytest.mark.parametrize("sent", [b"", BODY[:10]], ids=["nothing", "a part"])
def test_a_body_that_does_not_arrive_is_a_408(server: Server, sent: bytes) -> None:
    serve(server, timeout_s=0.3)
    assert answer(send(server, sent, len(BODY))) == (408, "body_timeout", True)


def test_a_body_that_trickles_in_is_a_408(server: Server) -> None:
    serve(server, timeout_s=0.5)
    caller = send(server, BODY[:1], len(BODY))
    caller.setblocking(False)
    for byte in BODY[1:]:
        time.sleep(0.05)
        try:
            caller.send(bytes([byte]))
            if caller.recv(1, socket.MSG_PEEK):
                break
        except BlockingIOError:
            continue
    caller.settimeout(30)
    assert answer(caller) == (408, "body_timeout", True)


def test_a_slow_answer_to_a_whole_body_is_not_late(server: Server) -> None:
    serve(server, timeout_s=0.3)
    assert answer(send(server, BODY))[0] == 200


async def test_a_request_whose_body_nobody_reads_is_not_late() -> None:
    async def receive() -> Any:
        raise AssertionError("nobody reads")

    watch = DisconnectWatch(body_s=0.05)
    exchange = Exchange({"method": "POST", "headers": []}, receive, HTTP_LIMITS)

    async def load() -> None:
        watch.enter(exchange)
        await asyncio.sleep(0.4)
        watch.leave(exchange)

    await asyncio.create_task(load())
    assert not exchange.late


def test_a_body_that_is_too_large_closes_the_connection(server: Server) -> None:
    serve(server, timeout_s=30)
    assert answer(send(server, BODY, 2_000_000)) == (413, "too_large", True)


def test_bodies_that_together_are_too_large_are_refused(server: Server) -> None:
    serve(server, timeout_s=30)
    arriving = send(server, LARGE[:700_000], len(LARGE))
    deadline = time.monotonic() + 30
    while (found := answer(send(server, LARGE)))[0] == 200:
        assert time.monotonic() < deadline, "the other body was never counted"
    assert found == (429, "overloaded", True)
    assert answer(send(server, BODY))[0] == 200  # a small one is not counted
    arriving.close()
    while answer(send(server, LARGE))[0] != 200:
        assert time.monotonic() < deadline, "the closed connection is still counted"
