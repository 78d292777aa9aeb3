"""Frames: the messages of a lane. A frame is a head, a pickle, and the large arrays of the pickled object beside it.

Large arrays are not part of the pickle (PEP 574): the sender passes them to the socket from where they lie, and the
receiver reads them into the memory that the unpickled arrays use.

::

    frame   head, body
    head    bytes of the body (u64), number of the call (u64), kind (u32), arrays (u32); little-endian
    body    a pickle, if there are no arrays; else bytes of the pickle and of each array (u64), the pickle, and each
            array at the next multiple of 16 bytes
"""

from __future__ import annotations

import asyncio
import enum
import hmac
import logging
import pickle
import struct
from abc import ABC, abstractmethod
from typing import Any, cast

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

HEAD = struct.Struct("<QQII")
_ALIGNMENT = 16
_LARGE_ARRAY = 4096
"""Bytes from which an array is sent beside the pickle. Two copies of a smaller one cost less than its head."""
_CHUNK = 64 * 1024
"""Bytes that are read at once; a larger body is read into memory of its own."""


class Kind(enum.IntEnum):
    """What a frame says. `HELLO`, `CALL` and `CANCEL` go to the pool, the others come from it.

    `HELLO` is the first frame of a lane; its body is a secret, not a pickle. `HELD` has the versions that the pool
    replica holds, `BYE` asks for no further calls. `BEGINS` says that the replica's own process, not a worker, now runs
    a call: if the lane ends before the answer, that call may have killed the process.
    """

    HELLO = 0
    CALL = 1
    CANCEL = 2
    ANSWER = 3
    ERROR = 4
    HELD = 5
    BYE = 6
    BEGINS = 7


def encode(kind: Kind, number: int, value: Any) -> list[Buffer]:
    """Return the buffers of a frame. They share memory with the arrays of `value`, which must not change meanwhile."""
    arrays: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE_ARRAY:
            return True
        arrays.append(raw)
        return False

    text = pickle.dumps(value, 5, buffer_callback=is_small)
    if not arrays:
        return [HEAD.pack(len(text), number, kind, 0) + text]
    sizes = [len(text), *(array.nbytes for array in arrays)]
    start = b"".join([struct.pack(f"<{len(sizes)}Q", *sizes), text])
    parts: list[Buffer] = [start]
    nbytes = len(start)
    for array in arrays:
        gap = -nbytes % _ALIGNMENT
        if gap:
            parts.append(bytes(gap))
        parts.append(array)
        nbytes += gap + array.nbytes
    return [HEAD.pack(nbytes, number, kind, len(arrays)), *parts]


def hello(secret: bytes) -> bytes:
    """Return the first frame of a lane."""
    return HEAD.pack(len(secret), 0, Kind.HELLO, 0) + secret


def decode(body: memoryview, arrays: int) -> Any:
    """Return the value of a frame. If it has arrays, they use the memory of `body`."""
    if not arrays:
        return pickle.loads(body)  # noqa: S301 - from a process that knows the secret
    sizes = struct.unpack_from(f"<{arrays + 1}Q", body)
    start = 8 * len(sizes)
    end = start + sizes[0]
    text, buffers = body[start:end], []
    for size in sizes[1:]:
        start = end + -end % _ALIGNMENT
        end = start + size
        buffers.append(body[start:end])
    return pickle.loads(text, buffers=buffers)  # noqa: S301 - as above


class FrameProtocol(asyncio.BufferedProtocol, ABC):
    """One end of a lane: reads frames and passes each to `received`.

    Args:
        secret: what the other end has to say first; until then, nothing is unpickled. None: nothing.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret
        self._chunk = memoryview(bytearray(_CHUNK))
        self._unread = 0
        self._body: memoryview | None = None
        self._filled = 0
        self._head = (0, 0, 0, 0)
        self._transport: asyncio.Transport | None = None

    @abstractmethod
    def received(self, kind: int, number: int, value: Any) -> None:
        """Take a frame."""

    def accepted(self) -> None:
        """Take note that the other end has said its secret."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, kind: Kind, number: int, value: Any) -> None:
        """Send a frame, unless the connection is closed. Never blocks."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(encode(kind, number, value))

    def say_hello(self, secret: bytes) -> None:
        """Send the first frame of a lane."""
        if self._transport is not None:
            self._transport.write(hello(secret))

    def close(self) -> None:
        """Close the connection after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._chunk[self._unread :] if self._body is None else self._body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._body is None:
                self._unread += nbytes
                self._read_chunk()
                return
            self._filled += nbytes
            if self._filled == len(self._body):
                body, self._body = self._body, None
                self._read(body)
        except Exception:
            log.exception("frame not read, closing the lane")
            self._abort()

    def _read_chunk(self) -> None:
        """Read the frames in the chunk, and move the beginning of the next one to its start or to its own memory."""
        start, end = 0, self._unread
        while end - start >= HEAD.size:
            self._head = HEAD.unpack_from(self._chunk, start)
            size, _, _, arrays = self._head
            if self._secret is not None and size != len(self._secret):
                self._abort()
                return
            body = start + HEAD.size
            if arrays or size > _CHUNK // 2:
                have = min(end - body, size)
                own = memoryview(bytearray(size))
                own[:have] = self._chunk[body : body + have]
                start = body + have
                if have < size:
                    self._body, self._filled = own, have
                    break
                self._read(own)
            elif end - body >= size:
                self._read(self._chunk[body : body + size])
                start = body + size
            else:
                break
        left = end - start
        if start and left:
            self._chunk[:left] = bytes(self._chunk[start:end])
        self._unread = left

    def _read(self, body: memoryview) -> None:
        _, number, kind, arrays = self._head
        if self._secret is None:
            self.received(kind, number, decode(body, arrays))
        elif kind == Kind.HELLO and hmac.compare_digest(body, self._secret):
            self._secret = None
            self.accepted()
        else:
            self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
