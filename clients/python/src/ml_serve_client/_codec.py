"""Tensor bytes of the Open Inference Protocol's binary data extension, and its datatypes as numpy dtypes.

Values are little-endian, in row-major order, without padding. Four bytes before each BYTES element hold its length.
Needs numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<f4"),
    "BYTES": np.dtype("object"),
}
"""The numpy dtype of each datatype. numpy has no BF16: 32-bit floats hold its values exactly."""

_DATATYPES = {dtype.name: datatype for datatype, dtype in DTYPES.items() if datatype != "BF16"}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Datatype of a numpy dtype; BYTES where no numeric datatype matches."""
    return _DATATYPES.get(dtype.name, "BYTES")


def encode(array: Array) -> bytes:
    """Encode a tensor. An object array holds `bytes` or `str`, which becomes UTF-8."""
    if not array.dtype.hasobject:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        data = element.encode() if isinstance(element, str) else element
        parts += (len(data).to_bytes(4, "little"), data)
    return b"".join(parts)


def decode(datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """Decode a tensor into an array of its own.

    BYTES become `str`, or stay `bytes` where one of them is not UTF-8.

    Raises:
        KeyError: the datatype is unknown.
        ValueError: the bytes do not fit the datatype and the shape.
    """
    if datatype == "BYTES":
        elements = _decode_elements(data)
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
    elif datatype == "BF16":
        array = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(data, dtype=DTYPES[datatype]).copy()  # a view would be read-only and perhaps unaligned
    return array.reshape(shape)


def _decode_elements(data: memoryview) -> list[bytes] | list[str]:
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise ValueError(f"BYTES element {len(elements)} is cut short")
        elements.append(bytes(data[start:at]))
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        return elements
