from __future__ import annotations

import struct
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedBody
from app.oip.binary import Array, decode, encode, encode_elements, values_of
from app.oip.datatypes import DTYPES, datatype_of

NUMBERS = [name for name in DTYPES if name not in ("BYTES", "BF16", "BOOL")]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
ELEMENTS = st.lists(st.binary(max_size=20), min_size=1, max_size=12)


def refused(name: str, datatype: str, shape: list[int], data: bytes) -> str:
    with pytest.raises(MalformedBody) as caught:
        decode(name, datatype, shape, data)
    assert len(caught.value.message) < 1500
    return caught.value.message


def elements(array: Array) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    return values


@given(st.sampled_from(NUMBERS), SHAPES, st.data())
def test_numbers_come_back_bit_for_bit(datatype: str, shape: list[int], data: st.DataObject) -> None:
    size = prod(shape) * DTYPES[datatype].itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    array = decode("x", datatype, shape, raw)
    assert (array.dtype, list(array.shape)) == (DTYPES[datatype], shape)
    assert array.flatten().tobytes() == raw
    assert encode(array) == raw
    assert datatype_of(array.dtype) == datatype


@pytest.mark.parametrize(
    ("datatype", "raw", "values"),
    [
        ("BOOL", b"\x01\x00", [True, False]),
        ("INT8", b"\xff\x7f", [-1, 127]),
        ("UINT8", b"\xff\x7f", [255, 127]),
        ("INT16", b"\x01\x00\xff\xff", [1, -1]),
        ("UINT16", b"\x01\x00\xff\xff", [1, 65535]),
        ("INT32", b"\x01\x00\x00\x00\xff\xff\xff\xff", [1, -1]),
        ("UINT32", b"\x01\x00\x00\x00\xff\xff\xff\xff", [1, 2**32 - 1]),
        ("INT64", struct.pack("<2q", 2**53 + 1, -(2**63)), [2**53 + 1, -(2**63)]),
        ("UINT64", struct.pack("<2Q", 2**64 - 1, 1), [2**64 - 1, 1]),
        ("FP16", b"\x00\x3c\x00\xc0", [1.0, -2.0]),
        ("BF16", b"\x80\x3f\x00\xc0", [1.0, -2.0]),
        ("FP32", struct.pack("<2f", 1.5, -2.0), [1.5, -2.0]),
        ("FP64", struct.pack("<2d", 0.1, -2.0), [0.1, -2.0]),
        ("BYTES", b"\x02\x00\x00\x00ab\x00\x00\x00\x00", [b"ab", b""]),
    ],
)
def test_every_datatype_is_little_endian(datatype: str, raw: bytes, values: list[Any]) -> None:
    array = decode("x", datatype, [2], raw)
    assert (array.dtype, array.tolist()) == (DTYPES[datatype], values)
    assert datatype == "BF16" or encode(array) == raw


def test_datatypes_are_those_of_the_protocol() -> None:
    assert set(DTYPES) == {
        *("BOOL", "BYTES", "FP16", "FP32", "FP64", "BF16"),
        *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    }
    for dtype in ("<U3", "S3", "datetime64[ns]", "object"):
        assert datatype_of(np.dtype(dtype)) == "BYTES"


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1))
def test_bf16_is_the_upper_half_of_a_float(halves: list[int]) -> None:
    raw = struct.pack(f"<{len(halves)}H", *halves)
    array = decode("x", "BF16", [len(halves)], raw)
    assert array.dtype == np.float32
    assert (array.view("<u4") & 0xFFFF).max() == 0
    assert (array.view("<u4") >> 16).tolist() == halves


@given(st.lists(st.booleans(), min_size=1))
def test_booleans_are_bytes_0_and_1(values: list[bool]) -> None:
    raw = bytes(values)
    assert decode("x", "BOOL", [len(values)], raw).tolist() == values
    assert encode(np.array(values)) == raw


@pytest.mark.parametrize("byte", [2, 7, 255])
def test_other_bytes_are_not_booleans(byte: int) -> None:
    assert "'flag'" in refused("flag", "BOOL", [3], bytes([1, byte, 0]))


@given(ELEMENTS)
def test_bytes_elements_follow_their_length(values: list[bytes]) -> None:
    raw = encode_elements(values)
    assert len(raw) == sum(4 + len(value) for value in values)
    array = decode("x", "BYTES", [len(values), 1], raw)
    assert (array.dtype, array.shape) == (np.dtype(object), (len(values), 1))
    assert elements(array) == values
    assert {*map(type, elements(array))} == {bytes}
    assert encode(array) == raw


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_text_is_sent_as_utf_8(values: list[str]) -> None:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    assert [value.decode() for value in decode("x", "BYTES", [len(values)], encode(array))] == values


@given(ELEMENTS, st.data())
def test_truncated_or_trailing_bytes_are_refused(values: list[bytes], data: st.DataObject) -> None:
    raw = encode_elements(values)
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert "'x'" in refused("x", "BYTES", [len(values)], raw[:cut])
    assert "'x'" in refused("x", "BYTES", [len(values)], raw + b"\0")
    assert "'x'" in refused("x", "BYTES", [len(values) + 1], raw)


@given(st.binary(max_size=64), st.lists(st.integers(0, 2**63 - 1), max_size=4))
def test_hostile_bytes_never_raise_anything_else(raw: bytes, shape: list[int]) -> None:
    for datatype in DTYPES:
        try:
            array = decode("x", datatype, shape, raw)
        except MalformedBody:
            continue
        assert list(array.shape) == shape


@pytest.mark.parametrize(
    ("shape", "raw", "words"),
    [
        ([1], b"", "too few for 1 BYTES"),
        ([1], b"\x01\x00\x00", "too few for 1 BYTES"),
        ([1], b"\xff\xff\xff\xffabc", "ends inside element 0 of 4294967295 bytes"),
        ([2], b"\x03\x00\x00\x00abc\x00", "inside the length prefix of element 1"),
        ([2], b"\x05\x00\x00\x00abcde\x01\x00\x00\x00", "ends inside element 1 of 1 bytes"),
        ([1], b"\x00\x00\x00\x00abc", "3 bytes after its 1 elements"),
        ([2**62], b"\x00\x00\x00\x00" * 4, "too few"),
        ([2**40, 2**40], b"\x00\x00\x00\x00" * 4, "too few"),
    ],
)
def test_bad_element_lengths_are_reported(shape: list[int], raw: bytes, words: str) -> None:
    assert words in refused("x", "BYTES", shape, raw)


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ([2], 15, "has 15 bytes, expected 16"),
        ([2], 17, "has 17 bytes, expected 16"),
        ([2, 3], 16, "expected 48: 8 for each FP64 value of shape [2, 3]"),
        ([2**62], 16, "expected 36893488147419103232"),
        ([2**62, 2**62, 16], 0, "has 0 bytes"),
        ([2**61], 0, "has 0 bytes"),  # whose bytes are 0 in 64-bit arithmetic
    ],
)
def test_wrong_number_of_bytes_is_reported(shape: list[int], size: int, words: str) -> None:
    assert words in refused("x", "FP64", shape, bytes(size))


@pytest.mark.parametrize("datatype", ["FP64", "BOOL", "BYTES", "BF16"])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([], "no dimensions"),
        ([0, 2**62, 2**62], "no values"),  # numpy cannot hold such a shape at all
        ([2**17, 0], "no values"),  # each row is a list
        ([1, 2**17, 0], "no values"),
        ([2**40, 0], "no values"),  # a list of lists of it would take all memory
    ],
)
def test_long_shapes_without_values_are_refused(datatype: str, shape: list[int], words: str) -> None:
    assert words in refused("x", datatype, shape, b"")
    with pytest.raises(MalformedBody, match=words):
        values_of("x", shape)


def test_long_names_are_cut_in_messages() -> None:
    assert len(refused("x" * 10_000, "FP64", [1], b"")) < 200


def test_decoded_numbers_are_read_only_views() -> None:
    raw = memoryview(bytearray(struct.pack("<2d", 1, 2))).toreadonly()
    array = decode("x", "FP64", [2], raw)
    assert np.shares_memory(array, np.frombuffer(raw, "u1"))
    assert not array.flags.writeable


@pytest.mark.parametrize("dtype", [">f8", ">i4", ">u2"])
def test_any_array_is_encoded_little_endian_row_major(dtype: str) -> None:
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    expected = np.arange(12, dtype=np.dtype(dtype).newbyteorder("<"))
    assert encode(array) == expected.tobytes()
    assert encode(array.T) == expected.reshape(3, 4).T.flatten().tobytes()
    assert encode(array[:, 1]) == expected.reshape(3, 4)[:, 1].copy().tobytes()
    assert datatype_of(array.dtype) == datatype_of(expected.dtype)


@pytest.mark.parametrize("shape", [[0], [0, 3], [3, 0], [2, 0, 2]])
@pytest.mark.parametrize("datatype", ["FP64", "BOOL", "BYTES", "BF16"])
def test_tensors_may_have_no_values(datatype: str, shape: list[int]) -> None:
    array = decode("x", datatype, shape, b"")
    assert (list(array.shape), encode(array)) == (shape, b"")
