"""Codec for tensors as raw bytes: the binary tensor data extension, and ``raw_*_contents`` of gRPC.

Bytes are little-endian, row-major and without padding. Four bytes with its length precede each BYTES element.
Source: Triton's *Binary tensor data extension*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from app.errors import MalformedBody
from app.oip.datatypes import DTYPES

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Buffer: TypeAlias = bytes | memoryview

MAX_DIMENSIONS = 32
"""Limit on the dimensions of a tensor; numpy allows 64."""

_MAX_WITHOUT_VALUES = 2**20
_MAX_EMPTY = 2**16
"""Limit on the lists that a tensor without values becomes: each takes microseconds, and none takes bytes."""

_LENGTH = struct.Struct("<I")


def decode(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Array:
    """Decode a tensor: a read-only view of `data`, except for BYTES (an object array of bytes) and BF16 (a copy).

    Args:
        name: name of the tensor, for error messages.
        datatype: a key of `DTYPES`.
        shape: lengths of the dimensions, 0 or more each.
        data: exactly the bytes of this tensor.

    Raises:
        MalformedBody: the shape is empty, or the bytes do not fit the shape or the datatype.
    """
    count = values_of(name, shape)
    if datatype == "BYTES":
        return _elements(name, count, data).reshape(shape)
    stored = np.dtype("<u2") if datatype == "BF16" else DTYPES[datatype]
    if len(data) != count * stored.itemsize:
        raise MalformedBody(
            f"tensor '{name[:80]}' has {len(data)} bytes, expected {count * stored.itemsize}: "
            f"{stored.itemsize} for each {datatype} value of shape {list(shape)}"
        )
    if datatype == "BOOL":
        numbers = np.frombuffer(data, dtype=np.uint8)
        if numbers.max(initial=0) > 1:
            raise MalformedBody(f"tensor '{name[:80]}' is BOOL, but has a byte other than 0 and 1")
        return numbers.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype=stored).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else array


def values_of(name: str, shape: Sequence[int]) -> int:
    """Count the values in a tensor of this shape.

    Raises:
        MalformedBody: the shape has no dimension, or beside one of length 0 others that are very long: without values,
            they could claim any memory.
    """
    if not shape:
        raise MalformedBody(f"tensor '{name[:80]}' has no dimensions; its first dimension must be the rows")
    count = prod(shape)
    if not count and (
        prod(length or 1 for length in shape) > _MAX_WITHOUT_VALUES or prod(shape[: list(shape).index(0)]) > _MAX_EMPTY
    ):
        raise MalformedBody(f"tensor '{name[:80]}' has no values, but the shape {list(shape)}; use shorter dimensions")
    return count


def encode(array: Array) -> bytes:
    """Encode a tensor. Text in an object array is encoded as UTF-8."""
    if array.dtype.hasobject:
        return encode_elements(array.ravel().tolist())
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def encode_elements(elements: Iterable[str | bytes]) -> bytes:
    """Encode BYTES elements, each preceded by its length."""
    parts: list[bytes] = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else element
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _elements(name: str, count: int, data: Buffer) -> Array:
    view = memoryview(data)
    # Check before allocating: the shape is the caller's, and each element takes at least four bytes.
    if count * _LENGTH.size > len(view):
        raise MalformedBody(f"tensor '{name[:80]}' has {len(view)} bytes, too few for {count} BYTES elements")
    elements = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > len(view):
            raise MalformedBody(f"tensor '{name[:80]}' ends inside the length prefix of element {index}")
        (length,) = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > len(view):
            raise MalformedBody(f"tensor '{name[:80]}' ends inside element {index} of {length} bytes")
        elements[index] = bytes(view[start:at])
    if at != len(view):
        raise MalformedBody(f"tensor '{name[:80]}' has {len(view) - at} bytes after its {count} elements")
    return elements
