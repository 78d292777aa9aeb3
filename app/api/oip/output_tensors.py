"""Conversion of a model's output to tensors of the Open Inference Protocol."""

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
"""Name of the only output if neither the model nor its signature has one for it."""

_NULL = type(None)
_NUMBERS = {bool, int, float, _NULL}


class OutputTensor(NamedTuple):
    """One output: an array of numbers or booleans, or an object array of text or bytes (BYTES)."""

    name: str
    datatype: str
    array: Array


def output_tensors(output: Output, signature: Signature) -> list[OutputTensor]:
    """Make one tensor per column or entry of the output; an unnamed array gets the names of the signature's outputs.

    Raises:
        ModelFailed: the output has a value that the protocol cannot represent.
    """
    if output.kind != "tensor":
        return [_tensor(name, array) for name, array in zip(output.names, output.arrays, strict=True)]
    array = output.arrays[0]
    names = output_names(signature)
    if len(names) > 1 and array.ndim == 2 and array.shape[1] == len(names):
        return [_tensor(name, array[:, index]) for index, name in enumerate(names)]
    return [_tensor(names[0] if len(names) == 1 else UNNAMED, array)]


def output_names(signature: Signature) -> list[str]:
    """Name the outputs of the signature; empty if it has none."""
    names = [spec.get("name") for spec in signature.outputs]
    unnamed = [UNNAMED] if len(names) == 1 else map(str, range(len(names)))
    return [str(name) if name not in (None, "") else other for name, other in zip(names, unnamed, strict=True)]


def _tensor(name: str, array: Array) -> OutputTensor:
    if array.dtype.kind == "m":
        array = array / np.timedelta64(1, "s")
    if array.dtype.kind in "biuf":
        return OutputTensor(name, datatype_of(array.dtype), array)
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
    """Stack lists or arrays of one shape. None if their shapes differ."""
    arrays = [item for item in lists if isinstance(item, np.ndarray)]
    if len(arrays) == len(lists) and len({(item.dtype, item.shape) for item in arrays}) == 1:
        return np.stack(arrays)
    try:
        shape, flat = flatten([item.tolist() if isinstance(item, np.ndarray) else item for item in lists])
    except Misfit:
        return None
    return as_array(flat, np.dtype(object)).reshape(shape)


def _element(value: Any) -> str:
    """Format a value as text: null is empty, a value other than text is JSON."""
    converted = value if isinstance(value, str) else plain(value)
    if converted is None:
        return ""
    return converted if isinstance(converted, str) else orjson.dumps(converted).decode()
