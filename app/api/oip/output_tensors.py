"""A model's output as tensors of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson

from app.oip.datatypes import datatype_of
from app.serving.json_output import array_values, plain
from app.serving.rows import Array, Output, as_array
from app.serving.signatures.scalars import infer_array
from app.serving.signatures.signature import Signature
from app.serving.signatures.tensors import flatten
from app.serving.signatures.validation_errors import Misfit

UNNAMED = "output"
"""What the only output is called where neither the model nor its signature names it."""

_NULL = type(None)
_NUMBERS = {bool, int, float, _NULL}


class OutputTensor(NamedTuple):
    """One output: numbers and truth values as they are, everything else as an object array of text or bytes (BYTES)."""

    name: str
    datatype: str
    array: Array


def output_tensors(output: Output, signature: Signature) -> list[OutputTensor]:
    """One tensor per column or entry of the output; an unnamed array is named as the signature's outputs are.

    Raises:
        ModelFailed: the model answered something that the protocol cannot hold.
    """
    if output.kind != "tensor":
        return [_tensor(name, array) for name, array in zip(output.names, output.arrays, strict=True)]
    array = output.arrays[0]
    names = output_names(signature)
    if len(names) > 1 and array.ndim == 2 and array.shape[1] == len(names):
        return [_tensor(name, array[:, index]) for index, name in enumerate(names)]
    return [_tensor(names[0] if len(names) == 1 else UNNAMED, array)]


def output_names(signature: Signature) -> list[str]:
    """Names of the outputs by the signature, empty where it has none."""
    specs = signature.outputs
    names = [spec.get("name") for spec in specs]
    return [str(name) if name not in (None, "") else _unnamed(index, len(names)) for index, name in enumerate(names)]


def _unnamed(index: int, count: int) -> str:
    return UNNAMED if count == 1 else str(index)


def _tensor(name: str, array: Array) -> OutputTensor:
    if array.dtype.kind == "m":
        array = array / np.timedelta64(1, "s")
    if array.dtype.kind in "biuf":
        return OutputTensor(name, datatype_of(array.dtype), array)
    # Datetimes become text here; the rest are values as they are.
    values = array_values(array.ravel()) if array.dtype.kind == "M" else array.ravel().tolist()
    kinds = {*map(type, values)}
    if kinds and kinds <= {list, np.ndarray}:
        inner = _regular(values)
        if inner is not None:
            return _tensor(name, inner.reshape(array.shape + inner.shape[1:]))
    if kinds <= _NUMBERS and (_NULL not in kinds or float in kinds):  # integers beside a null would lose digits
        numbers = infer_array(values)
        if not numbers.dtype.hasobject:
            return OutputTensor(name, datatype_of(numbers.dtype), numbers.reshape(array.shape))
    elements = [value if isinstance(value, bytes) else _element(value) for value in values]
    return OutputTensor(name, "BYTES", as_array(elements, np.dtype(object)).reshape(array.shape))


def _regular(lists: list[Any]) -> Array | None:
    """Lists or arrays of one shape as one array, None where they differ."""
    arrays = [item for item in lists if isinstance(item, np.ndarray)]
    if len(arrays) == len(lists) and len({(item.dtype, item.shape) for item in arrays}) == 1:
        return np.stack(arrays)
    try:
        shape, flat = flatten([item.tolist() if isinstance(item, np.ndarray) else item for item in lists])
    except Misfit:
        return None
    return as_array(flat, np.dtype(object)).reshape(shape)


def _element(value: Any) -> str:
    """Text as it is, nothing for null, and other values as JSON."""
    if isinstance(value, str):
        return value
    converted = plain(value)
    if converted is None:
        return ""
    return converted if isinstance(converted, str) else orjson.dumps(converted).decode()
