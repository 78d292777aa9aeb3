"""Frames, however the connection cuts them."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.lanes.frames import FrameProtocol, Kind, encode
from app.serving.rows import Batch, Layout, RowLabels

SECRET = b"s" * 32
SIZES = (0, 1, 3, 511, 512, 513, 5_000, 20_000)
"""Rows of float64 columns: around the size from which an array travels beside the pickle, and beyond one chunk."""


class Transport:
    """Keeps what is written and whether the connection was ended."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Reader(FrameProtocol):
    """Keeps what it receives."""

    def __init__(self, secret: bytes | None = None) -> None:
        super().__init__(secret)
        self.frames: list[tuple[int, int, Any]] = []
        self.transport = Transport()
        self.connection_made(self.transport)  # type: ignore[arg-type]

    def received(self, kind: int, number: int, value: Any) -> None:
        self.frames.append((kind, number, value))

    def feed(self, data: bytes, cuts: Any) -> None:
        """Pass data on as a socket would, in pieces of the given sizes and of what the buffer takes."""
        left = memoryview(data)
        while left and not self.transport.is_aborted:
            buffer = self.get_buffer(-1)
            size = min(next(cuts), len(left), len(buffer))
            buffer[:size] = left[:size]
            self.buffer_updated(size)
            left = left[size:]


def joined(*frames: Any) -> bytes:
    return b"".join(b"".join(map(bytes, encode(*frame))) for frame in frames)


def batch(rows: int, dtypes: tuple[str, ...] = ("float64", "float64", "int64", "object")) -> Batch:
    columns = [np.arange(rows).astype(dtype) for dtype in dtypes]
    names = tuple(f"c{index}" for index in range(len(dtypes)))
    return Batch(Layout("columns", names, dtypes, ((),) * len(dtypes)), tuple(columns), rows)


def same(found: Batch, sent: Batch) -> bool:
    return (found.layout, found.count) == (sent.layout, sent.count) and all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(found.arrays, sent.arrays, strict=True)
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), st.lists(st.integers(1, 90_000)))
def test_frames_arrive_whole_however_they_are_cut(sizes: list[int], pieces: list[int]) -> None:
    batches = [batch(rows) for rows in sizes]
    reader = Reader()
    reader.feed(
        joined(*((Kind.CALL, number, one) for number, one in enumerate(batches))),
        itertools.chain(pieces, itertools.repeat(50_000)),
    )
    assert [(kind, number) for kind, number, _ in reader.frames] == [(Kind.CALL, n) for n in range(len(batches))]
    assert all(same(value, sent) for (_, _, value), sent in zip(reader.frames, batches, strict=True))


@pytest.mark.parametrize("rows", SIZES)
def test_received_arrays_are_writable_and_aligned(rows: int) -> None:
    reader = Reader()
    sent = batch(rows, ("float64",) * 3), batch(rows)
    reader.feed(joined(*((Kind.CALL, 1, one) for one in sent)), itertools.repeat(7_001))
    arrays = [array for _, _, value in reader.frames for array in value.arrays]
    assert all(array.flags.writeable and array.flags.aligned for array in arrays)


def test_large_arrays_are_not_copied_by_the_sender() -> None:
    column = np.arange(100_000.0)
    assert any(np.shares_memory(np.frombuffer(part, "u1"), column) for part in encode(Kind.CALL, 1, (column,)))


def test_a_later_frame_does_not_change_an_earlier_one() -> None:
    reader = Reader()
    for rows in (3, 600, 5_000):
        sent = batch(rows)
        reader.frames.clear()
        reader.feed(joined((Kind.CALL, 1, sent), (Kind.CALL, 2, batch(rows + 1))), itertools.repeat(10**6))
        assert same(reader.frames[0][2], sent)


def test_labels_and_parameters_arrive() -> None:
    sent = batch(2)
    labeled = Batch(sent.layout._replace(params='{"a":1}', labels=RowLabels(("x", "y"))), sent.arrays, 2)
    reader = Reader()
    reader.feed(joined((Kind.CALL, 1, labeled)), itertools.repeat(10**6))
    assert reader.frames[0][2].layout == labeled.layout


class Bomb:
    """Notes that it was unpickled."""

    unpickled = 0

    def __reduce__(self) -> Any:
        return _count, ()


def _count() -> None:
    Bomb.unpickled += 1


def test_a_frame_is_unpickled_after_the_secret() -> None:
    reader, sender = Reader(SECRET), Reader()
    sender.say_hello(SECRET)
    before = Bomb.unpickled
    reader.feed(bytes(sender.transport.sent) + joined((Kind.CALL, 1, Bomb())), itertools.repeat(10**6))
    assert Bomb.unpickled == before + 1
    assert [number for _, number, _ in reader.frames] == [1]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(joined((Kind.CALL, 1, Bomb())), id="no secret"),
        pytest.param(joined((Kind.HELLO, 0, Bomb())), id="a pickle as the secret"),
        pytest.param(bytes(24) + SECRET, id="an empty secret"),
        pytest.param(b"\x20" + bytes(15) + b"\x01" + bytes(7) + SECRET, id="the secret in another frame"),
        pytest.param(b"\x20" + bytes(23) + b"t" * 32, id="another secret"),
        pytest.param(b"\xff" * 24, id="a body of 16 EiB"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n", id="HTTP"),
    ],
)
def test_nothing_is_unpickled_without_the_secret(start: bytes) -> None:
    reader = Reader(SECRET)
    before = Bomb.unpickled
    reader.feed(start + joined((Kind.CALL, 1, Bomb())) * 3, itertools.repeat(10**6))
    assert reader.transport.is_aborted
    assert reader.frames == []
    assert Bomb.unpickled == before


def test_a_frame_that_cannot_be_read_ends_the_lane(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()
    text = pickle.dumps(1, 5)[:-1]
    head = len(text).to_bytes(8, "little") + bytes(16)
    reader.feed(head + text + b"\0" * 10, itertools.repeat(10**6))
    assert reader.transport.is_aborted
    assert "closing the lane" in caplog.text
