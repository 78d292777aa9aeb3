"""Tensors in the JSON of the Open Inference Protocol: a datatype, a shape, and values nested or flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.oip.binary import values_of
from app.oip.datatypes import DTYPES
from app.serving.rows import Array
from app.serving.signatures.scalars import StringType, element_type
from app.serving.signatures.tensors import build, flatten
from app.serving.signatures.validation_errors import Misfit, refusal, short

_ELEMENTS = {
    **{name: (element_type(dtype, name), dtype) for name, dtype in DTYPES.items() if name not in ("BF16", "BYTES")},
    "BYTES": (StringType(), np.dtype(object)),
}


def read_tensor(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Convert a tensor; BYTES become an object array of text, and null among floats NaN.

    Raises:
        InvalidInput: values of another type, or values that do not fit the shape.
        MalformedBody: as `values_of`.
    """
    if datatype not in _ELEMENTS:
        raise InvalidInput(f"tensor '{name[:80]}': {datatype} has no JSON form; send it as binary data")
    if not isinstance(data, list):
        raise InvalidInput(f"tensor '{name[:80]}': 'data' is {short(data)}, expected a list")
    try:
        nested, flat = flatten(data) if data and isinstance(data[0], list) else (None, data)
        count = values_of(name, shape)
        if len(flat) != count or (nested is not None and list(nested) != list(shape)):
            found = f"the shape {list(nested)}" if nested is not None else f"{len(flat)} values"
            raise InvalidInput(
                f"tensor '{name[:80]}': 'data' has {found}, expected {count} values for the shape {list(shape)}",
                {"column": name[:80], "shape": list(shape)},  # without the count, which may be too large for JSON
            )
        elements, dtype = _ELEMENTS[datatype]
        return build(elements, flat, shape, dtype)
    except Misfit as misfit:
        raise refusal(name, misfit) from None
