"""Lanes for threads, between a pool replica and its worker processes: one call at a time on each."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from app.errors import Unavailable
from app.lanes.frames import HEAD, Buffer, Kind, decode, encode, hello

log = logging.getLogger(__name__)


class WorkerAddress(NamedTuple):
    """Where a worker takes lanes: the name of a socket in Linux's abstract namespace, and what a lane says first."""

    name: str
    secret: bytes


class BlockingLane:
    """A connection for one call at a time.

    Raises:
        OSError: from each method, where the connection is lost or refused.
    """

    def __init__(self, address: WorkerAddress) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(f"\0{address.name}")
            self._socket.sendall(hello(address.secret))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def call(self, value: Any) -> Any:
        """Send a value and return the answer; `Unavailable` where the other end could not answer."""
        _send(self._socket, encode(Kind.CALL, 0, value))
        return _receive(self._socket)


def answer_lanes(address: WorkerAddress, answer: Callable[[Any], Any]) -> None:
    """Take lanes from now on, in threads that end with the process; one thread calls `answer` for each lane."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{address.name}")
    listener.listen()
    threading.Thread(target=_accept, args=(listener, address.secret, answer), name="lanes", daemon=True).start()


def _accept(listener: socket.socket, secret: bytes, answer: Callable[[Any], Any]) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, secret, answer), name="lane", daemon=True).start()


def _serve(connection: socket.socket, secret: bytes, answer: Callable[[Any], Any]) -> None:
    expected = hello(secret)
    with connection:
        try:
            if not hmac.compare_digest(_exactly(connection, len(expected)), expected):
                return
            while True:
                call = _receive(connection)
                _send(connection, _answered(call, answer))
        except OSError:
            return  # the other end has closed the lane


def _answered(call: Any, answer: Callable[[Any], Any]) -> list[Buffer]:
    try:
        return encode(Kind.ANSWER, 0, answer(call))
    except Exception:
        log.exception("call failed")
        return encode(Kind.ANSWER, 0, Unavailable("a worker failed; the log has the cause"))


def _send(connection: socket.socket, parts: list[Buffer]) -> None:
    for part in parts:
        connection.sendall(part)


def _receive(connection: socket.socket) -> Any:
    size, _, _, arrays = HEAD.unpack(_exactly(connection, HEAD.size))
    return decode(_exactly(connection, size), arrays)


def _exactly(connection: socket.socket, size: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count = connection.recv_into(buffer[filled:])
        if not count:
            raise ConnectionResetError("the other end has closed the lane")
        filled += count
    return buffer
