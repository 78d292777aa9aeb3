"""Tensors as raw bytes: the binary tensor data extension, and ``raw_*_contents`` of gRPC.

Little-endian, row-major, without padding. A BYTES element is preceded by its length in four bytes. Source: Triton's
*Binary tensor data extension*.
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
"""Most dimensions of a tensor; numpy's own bound is twice that."""

_LENGTH = struct.Struct("<I")


def decode(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Array:
    """A tensor from its bytes: a read-only view of `data`, but for BYTES (an object array of bytes) and BF16.

    Args:
        name: of the tensor, for messages.
        datatype: a key of `DTYPES`.
        shape: whole numbers from 0.

    Raises:
        MalformedBody: as `values_of`; the bytes are too few or too many for the shape, or no values of the datatype.
    """
    count = values_of(name, shape)
    if datatype == "BYTES":
        return _elements(name, count, data).reshape(shape)
    stored = np.dtype("<u2") if datatype == "BF16" else DTYPES[datatype]
    if len(data) != count * stored.itemsize:
        raise MalformedBody(
            f"tensor '{name[:80]}' has {len(data)} bytes, expected {count * stored.itemsize}: "
            f"{stored.itemsize} for each {datatype} of the shape {list(shape)}"
        )
    if datatype == "BOOL":
        numbers = np.frombuffer(data, dtype=np.uint8)
        if numbers.max() > 1:
            raise MalformedBody(f"tensor '{name[:80]}' has a byte other than 0 and 1, which is no BOOL")
        return numbers.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype=stored).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else array


def values_of(name: str, shape: Sequence[int]) -> int:
    """How many values a tensor of the shape has.

    Raises:
        MalformedBody: it has no dimension, or no value; then its other dimensions could claim any memory.
    """
    if not shape:
        raise MalformedBody(f"tensor '{name[:80]}' is a single value: its first dimension must be the rows")
    count = prod(shape)
    if not count:
        raise MalformedBody(f"tensor '{name[:80]}' has no values: its shape is {list(shape)}")
    return count


def encode(array: Array) -> bytes:
    """A tensor as bytes. An object array holds bytes or text, which is sent as UTF-8."""
    if array.dtype.hasobject:
        return encode_elements(array.ravel().tolist())
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def encode_elements(elements: Iterable[str | bytes]) -> bytes:
    """BYTES elements, each behind its length."""
    parts: list[bytes] = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else element
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _elements(name: str, count: int, data: Buffer) -> Array:
    view = memoryview(data)
    # Each takes four bytes at least: a shape that claims more must not reserve memory for them.
    if count * _LENGTH.size > len(view):
        raise MalformedBody(f"tensor '{name[:80]}' has {len(view)} bytes, too few for {count} BYTES elements")
    elements = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > len(view):
            raise MalformedBody(f"tensor '{name[:80]}' ends within the length of element {index}")
        (length,) = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > len(view):
            raise MalformedBody(f"tensor '{name[:80]}': element {index} of {length} bytes is cut short")
        elements[index] = bytes(view[start:at])
    if at != len(view):
        raise MalformedBody(f"tensor '{name[:80]}' has {len(view) - at} bytes after its {count} elements")
    return elements
