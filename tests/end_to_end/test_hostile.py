"""Requests that could stop a gateway: the caller gets an error, and nobody else notices."""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.platform import URL, Platform

pytestmark = pytest.mark.ray

PARQUET = {"content-type": "application/vnd.apache.parquet"}
ROWS = 10**18


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=URL, timeout=60) as client:
        yield client


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    number *= 2  # zigzag
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def without_columns() -> bytes:
    """A file of less than 200 bytes that claims 10^18 rows of no columns."""
    body = written(pa.table({"a": [1]}).select([]))
    (size,) = struct.unpack("<I", body[-8:-4])
    # The rows of the file, and those of its only row group, which has a list of no columns and no bytes.
    claims = b"\x16%b\x19\x1c\x19\x0c\x16\x00\x16%b"
    footer = body[-8 - size : -8].replace(claims % (varint(0), varint(0)), claims % (varint(ROWS), varint(ROWS)))
    return body[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def pids(platform: Platform, deployment: str) -> set[int]:
    return {process.pid for process in platform.replicas(deployment)}


@pytest.mark.parametrize("body", [without_columns(), written(pa.table({"x": [1.0]}))[:-9] + b"\0PAR1"])
def test_a_crafted_parquet_file_ends_no_gateway(client: httpx.Client, platform: Platform, body: bytes) -> None:
    before = pids(platform, "Gateway")
    for _ in range(2):
        answer = client.post("/invocations/choking", content=body, headers=PARQUET)
        assert answer.status_code in (400, 413), answer.text
    good = client.post("/invocations/choking", content=written(pa.table({"x": [1.0, 2.0]})), headers=PARQUET)
    assert (good.status_code, good.json()) == (200, {"predictions": [2.0, 4.0]})
    assert pids(platform, "Gateway") == before


def test_a_small_parquet_file_that_claims_much_memory_is_refused(client: httpx.Client, platform: Platform) -> None:
    body = written(pa.table({"x": ["x" * 2**28]}), compression="zstd", use_dictionary=False)
    assert len(body) < 100_000
    gateways = platform.replicas("Gateway")
    before = {process.pid: process.memory_info().rss for process in gateways}
    assert client.post("/invocations/choking", content=body, headers=PARQUET).status_code in (400, 413)
    for process in gateways:
        assert process.memory_info().rss < before[process.pid] + 64 * 2**20


def test_a_model_that_exits_ends_no_process(client: httpx.Client, platform: Platform) -> None:
    before = pids(platform, "ModelPool")
    answer = client.post("/v1/models/choking:predict", json={"instances": [{"x": -14.0}]})
    assert (answer.status_code, answer.json()["code"]) == (500, "model_failed")
    assert "SystemExit" in answer.json()["error"]
    assert client.post("/v1/models/choking:predict", json={"instances": [{"x": 2.0}]}).json()["predictions"] == [4.0]
    assert pids(platform, "ModelPool") == before


def test_a_body_over_the_limit_ends_the_connection() -> None:
    received = b""
    with socket.create_connection(("127.0.0.1", 8000), timeout=30) as caller:
        caller.sendall(b"POST /serve HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(80):
                caller.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        with suppress(ConnectionResetError):
            while part := caller.recv(65536):  # until the end of the connection
                received += part
    assert received.startswith(b"HTTP/1.1 413 "), received[:200]
