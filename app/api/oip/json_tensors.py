"""Tensors as JSON has them in the Open Inference Protocol: a datatype, a shape, and values nested or flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.oip.binary import values_of
from app.oip.datatypes import DTYPES
from app.serving.rows import Array, as_array
from app.serving.signatures.scalars import StringType, element_type
from app.serving.signatures.tensors import flatten
from app.serving.signatures.validation_errors import Misfit, refusal, short

_READERS = {
    **{name: element_type(dtype, name) for name, dtype in DTYPES.items() if name not in ("BF16", "BYTES")},
    "BYTES": StringType(),
}


def read(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """The tensor as an array; BYTES are an object array of text, null among floats is NaN.

    Raises:
        InvalidInput: values of another type, or another number or nesting of them than the shape says.
        MalformedBody: as `values_of`.
    """
    reader = _READERS.get(datatype)
    if reader is None:
        raise InvalidInput(f"tensor '{name[:80]}': {datatype} has no form in JSON: send it as binary data")
    if not isinstance(data, list):
        raise InvalidInput(f"tensor '{name[:80]}': 'data' is {short(data)}, expected a list")
    flat, nested = data, None
    try:
        if data and isinstance(data[0], list):
            nested, flat = flatten(data)
    except Misfit as misfit:
        raise refusal(name, misfit) from None
    count = values_of(name, shape)
    if len(flat) != count or (nested is not None and list(nested) != list(shape)):
        found = f"the shape {list(nested)}" if nested is not None else f"{len(flat)} values"
        raise InvalidInput(
            f"tensor '{name[:80]}': 'data' has {found}, expected {count} values for the shape {list(shape)}",
            {"column": name[:80], "shape": list(shape)},  # without the count, which JSON may not hold
        )
    try:
        values = reader.convert(flat)
    except Misfit as misfit:
        raise _located(name, misfit, shape) from None
    return as_array(values, np.dtype(reader.dtype)).reshape(shape)


def _located(name: str, misfit: Misfit, shape: Sequence[int]) -> InvalidInput:
    misfit.row, *inner = map(int, np.unravel_index(misfit.row, tuple(shape)))
    misfit.path = "".join(f"[{position}]" for position in inner)
    return refusal(name, misfit)
