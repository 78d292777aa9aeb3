"""Lanes of threads, over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from app.errors import Unavailable
from app.lanes.blocking import BlockingLane, WorkerAddress, answer_lanes
from app.lanes.frames import Kind, encode, hello


@contextmanager
def lane_to(address: WorkerAddress) -> Iterator[BlockingLane]:
    lane = BlockingLane(address)
    try:
        yield lane
    finally:
        lane.close()


def address() -> WorkerAddress:
    return WorkerAddress(f"ml-serve-test-{uuid.uuid4().hex}", os.urandom(32))


def answering(answer: Callable[[Any], Any]) -> WorkerAddress:
    found = address()
    answer_lanes(found, answer)
    return found


@pytest.mark.parametrize("rows", [1, 511, 512, 1_000_000])
def test_a_call_is_answered(rows: int) -> None:
    with lane_to(answering(lambda arrays: [array * 2 for array in arrays])) as lane:
        for _ in range(2):
            (found,) = lane.call([np.arange(float(rows))])
            assert np.array_equal(found, 2 * np.arange(float(rows)))


def test_lanes_are_answered_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    found = answering(lambda value: (both.wait(), value)[1])
    with ThreadPoolExecutor(2) as threads, lane_to(found) as one, lane_to(found) as other:
        calls = [threads.submit(lane.call, value) for lane, value in ((one, 1), (other, 2))]
        assert [call.result() for call in calls] == [1, 2]


def test_an_error_is_an_answer_and_its_text_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    with lane_to(answering(lambda value: {"known": "fine"}[value])) as lane:
        found = lane.call("password")
        assert isinstance(found, Unavailable)
        assert "password" not in found.message
        assert "password" in caplog.text
        assert lane.call("known") == "fine"


def test_an_answer_that_cannot_be_sent_is_an_error() -> None:
    with lane_to(answering(lambda _: lambda: None)) as lane:
        assert isinstance(lane.call(1), Unavailable)


def test_a_lane_without_the_secret_is_closed() -> None:
    called: list[Any] = []
    found = answering(called.append)
    with lane_to(found._replace(secret=bytes(32))) as lane, pytest.raises(ConnectionError):
        lane.call(1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{found.name}")
        connection.sendall(b"".join(map(bytes, encode(Kind.CALL, 0, "x" * 100))))
        with pytest.raises(ConnectionError):
            connection.recv(1)
    assert called == []


def test_a_process_that_dies_ends_its_lanes() -> None:
    found = address()
    code = f"""
import os, threading
from app.lanes.blocking import WorkerAddress, answer_lanes
answer_lanes(WorkerAddress({found.name!r}, {found.secret!r}), lambda value: os._exit(9))
print("ready", flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with lane_to(found) as lane, pytest.raises(ConnectionError):
            lane.call(1)
    with pytest.raises(ConnectionError):
        BlockingLane(found)


def test_a_gateway_that_ends_leaves_no_threads() -> None:
    found = answering(lambda value: value)
    before = threading.active_count()
    for number in range(100):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{found.name}")
            connection.sendall(hello(found.secret) + b"".join(map(bytes, encode(Kind.CALL, 0, number))))
            assert connection.recv(1)
    for thread in threading.enumerate():
        if thread.name == "lane":
            thread.join(30)
    assert threading.active_count() <= before
