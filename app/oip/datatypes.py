"""Mapping between the datatypes of the Open Inference Protocol and numpy dtypes.

Source: "Tensor Data Types" in KServe's *Open Inference Protocol*; BF16 appears only in its gRPC part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

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
"""Numpy dtype of each datatype. BF16 values become 32-bit floats, which hold them exactly: numpy has no BF16."""

_NAMES = {dtype.name: name for name, dtype in DTYPES.items() if name != "BF16"}


@lru_cache(maxsize=256)  # numpy builds a dtype's name on each access
def datatype_of(dtype: np.dtype[Any]) -> str:
    """Datatype of an output array. Text, bytes, datetimes and objects become BYTES."""
    return _NAMES.get(dtype.name, "BYTES")
