"""The tensor codec of the client agrees with that of the gateway."""

from __future__ import annotations

import numpy as np
import pytest

from app.oip import binary, datatypes
from ml_serve_client import _codec

NUMBERS = sorted(datatypes.DTYPES.keys() - {"BF16", "BYTES"})
TEXTS = np.array([["a", "é\0漢"], ["", "x" * 300]], dtype=object)


def numbers(datatype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    bits = np.arange(1, 7).astype(datatypes.DTYPES[datatype])
    return bits.reshape(3, 2)


def test_both_know_the_same_datatypes() -> None:
    assert _codec.DTYPES == datatypes.DTYPES
    for dtype in datatypes.DTYPES.values():
        assert _codec.datatype_of(dtype) == datatypes.datatype_of(dtype)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_pass_unchanged_in_both_directions(datatype: str) -> None:
    array = numbers(datatype)
    data = _codec.encode(array)
    assert data == binary.encode(array)
    assert _codec.encode(array.astype(array.dtype.newbyteorder(">"))) == data
    assert _codec.encode(np.asfortranarray(array)) == data
    for decoded in (
        binary.decode("x", datatype, array.shape, data),
        _codec.decode(datatype, array.shape, memoryview(data)),
    ):
        assert decoded.dtype == array.dtype
        assert np.array_equal(decoded, array)


def test_texts_pass_unchanged_in_both_directions() -> None:
    data = _codec.encode(TEXTS)
    assert data == binary.encode(TEXTS)
    assert _codec.decode("BYTES", (2, 2), memoryview(data)).tolist() == TEXTS.tolist()
    assert binary.decode("x", "BYTES", (4,), data).tolist() == [text.encode() for text in TEXTS.ravel()]


def test_bytes_stay_bytes_where_one_is_not_utf_8() -> None:
    data = binary.encode(np.array([b"\xff", b"a"], dtype=object))
    assert _codec.decode("BYTES", (2,), memoryview(data)).tolist() == [b"\xff", b"a"]


def test_bf16_becomes_32_bit_floats() -> None:
    values = np.array([0.0, 1.0, -2.5, 3.0e38], dtype=np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    decoded = _codec.decode("BF16", (2, 2), memoryview(data))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, binary.decode("x", "BF16", (2, 2), data))


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP64", (2,), b"\0" * 8),
        ("FP64", (1,), b"\0" * 7),
        ("BYTES", (2,), b"\1\0\0\0a"),
        ("BYTES", (1,), b"\2\0\0\0a"),
        ("BYTES", (1,), b"\1\0"),
        ("BYTES", (1,), b"\1\0\0\0ab"),
    ],
)
def test_bytes_that_do_not_fit_the_shape_are_refused(datatype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(ValueError, match=r"shape|buffer|cut short"):
        _codec.decode(datatype, shape, memoryview(data))
