"""Server-sent events behind nginx, which is what Kong's proxy is, with its buffering on, as it is by default."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from app.api.http.serve_middleware import HideHeaders, with_hidden_headers
from tests.fakes import FakeModel, make_fakes, total
from tests.missing import missing
from tests.ports import free_port
from tests.server import Server

BODY = {"messages": [], "stream": True}

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_buffering on;
        }}
    }}
}}
"""


class Waiting:
    """Yields one event, a second one when `read` is set, and when `gone` is set others for ever, until it is closed."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.gone = threading.Event()
        self.closed = threading.Event()

    def __call__(self, body: bytes) -> Generator[str]:
        try:
            yield json.dumps("first")
            assert self.read.wait(30)
            yield json.dumps("second")
            assert self.gone.wait(30)
            while True:
                yield json.dumps("tick")
        finally:
            self.closed.set()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def proxy(server: Server, tmp_path: Path) -> Iterator[str]:
    """URL of nginx in front of the server."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin") or missing("nginx is not installed")
    port, file = free_port(), tmp_path / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=port, upstream=server.url))
    with (tmp_path / "log").open("wb") as log:
        nginx = subprocess.Popen([program, "-c", file, "-p", tmp_path], stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert nginx.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_events_pass_at_once_and_a_disconnect_stops_the_model(server: Server, proxy: str) -> None:
    waiting = Waiting()
    server.app = HideHeaders(
        with_hidden_headers(make_fakes({"chat": FakeModel(total("x").predict, stream=waiting)}).app)
    )
    with httpx.stream("POST", f"{proxy}/invocations/chat", json=BODY, timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == 'data: "first"'
        waiting.read.set()
        assert [next(lines), next(lines)] == ["", 'data: "second"']  # a proxy that buffers waits for more
        assert not waiting.closed.is_set()
    waiting.gone.set()
    assert waiting.closed.wait(20)
