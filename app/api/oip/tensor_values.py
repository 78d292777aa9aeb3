"""Conversion of a model's arrays to the datatypes of the Open Inference Protocol: their own, or promised ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import orjson

from app.api.oip.metadata import Promise
from app.errors import ModelFailed
from app.oip.datatypes import DTYPES, datatype_of
from app.serving.json_output import array_values, plain
from app.serving.rows import Array, as_array
from app.serving.signatures.casting import exact
from app.serving.signatures.scalars import infer_array
from app.serving.signatures.tensors import flatten
from app.serving.signatures.validation_errors import Misfit, short

_ADVICE = "which the model's signature declares; correct the signature or the answer of the model"
_NULL = type(None)
_NUMBERS = {bool, int, float, _NULL}


class OutputTensor(NamedTuple):
    """One output: an array of numbers or booleans, or an object array of text or bytes (BYTES)."""

    name: str
    datatype: str
    array: Array


def natural(name: str, array: Array) -> OutputTensor:
    """Make a tensor with the datatype of the values. Raises `ModelFailed` if the protocol cannot represent one."""
    if array.dtype.kind == "m":
        array = array / np.timedelta64(1, "s")
    if array.dtype.kind in "biuf":
        return OutputTensor(name, datatype_of(array.dtype), array)
    inner = _inner(array)
    if inner is not None:
        return natural(name, inner)
    values = _values(array)
    kinds = {*map(type, values)}
    if kinds <= _NUMBERS and (_NULL not in kinds or float in kinds):  # integers beside a null would lose digits
        numbers = infer_array(values)
        if not numbers.dtype.hasobject:
            return OutputTensor(name, datatype_of(numbers.dtype), numbers.reshape(array.shape))
    return OutputTensor(name, "BYTES", _texts(name, values, array.shape))


def promised(promise: Promise, array: Array) -> OutputTensor:
    """Make a tensor with the promised name and datatype, whatever the values.

    Numbers are cast if they fit: whole ones to integers, 0 and 1 to BOOL, every one to floats, which may round it. Null
    is NaN among floats. Where rows are lists, and the answer is one flat list, it is one row.

    Raises:
        ModelFailed: a value does not fit the datatype.
    """
    name, datatype, dtype = promise.name, promise.datatype, DTYPES[promise.datatype]
    if array.ndim < promise.dimensions or (array.dtype.hasobject and datatype != "BYTES"):
        inner = _inner(array)
        if inner is not None:
            return promised(promise, inner)
        if promise.is_list and not any(isinstance(cell, list | np.ndarray) for cell in array.flat):
            array = array.reshape((1,) * (promise.dimensions - array.ndim) + array.shape)
    if datatype == "BYTES":
        return OutputTensor(name, datatype, _texts(name, _values(array), array.shape))
    if array.dtype == dtype:
        return OutputTensor(name, datatype, array)
    if array.dtype.kind == "m":
        array = array / np.timedelta64(1, "s")
    if array.dtype.kind in "iuf" and dtype.kind in "iuf":
        cast = exact(array, dtype.name)
        if cast is not None:
            return OutputTensor(name, datatype, cast)
    try:
        values = [_number(promise, dtype.kind, value) for value in _values(array)]
        cast = exact(np.array(values), dtype.name) if values and dtype.kind != "b" else np.array(values, dtype)
    except OverflowError:
        cast = None
    if cast is None:
        raise ModelFailed(f"output '{name}' has a value out of the range of {datatype}, {_ADVICE}", {"output": name})
    return OutputTensor(name, datatype, cast.reshape(array.shape))


def _number(promise: Promise, kind: str, value: Any) -> bool | int | float:
    if isinstance(value, bool | int | float):
        if kind == "f":
            return float(value)
        if kind == "b" and value in (0, 1):
            return bool(value)
        if kind in "iu" and (isinstance(value, int) or value.is_integer()):
            return int(value)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    if missing and kind == "f":
        return math.nan
    what = "a missing value" if missing else f"the value {short(value)}"
    if isinstance(value, list | np.ndarray):
        what = "lists of different lengths"
    advice = "; declare an output that may be missing with required=False" if missing else ""
    raise ModelFailed(
        f"output '{promise.name}' has {what}: no tensor of {promise.datatype}, {_ADVICE}{advice}",
        {"output": promise.name, "datatype": promise.datatype},
    )


def _values(array: Array) -> list[Any]:
    if array.dtype.kind in "Mm":
        values: list[Any] = array_values(array.ravel())
        return values
    return array.ravel().tolist()


def _inner(array: Array) -> Array | None:
    """Stack an array's cells if all of them are lists or arrays of one shape, else None."""
    if not array.dtype.hasobject:
        return None
    cells = array.ravel().tolist()
    kinds = {*map(type, cells)}
    if not kinds or not kinds <= {list, np.ndarray}:
        return None
    arrays = [cell for cell in cells if isinstance(cell, np.ndarray)]
    if len(arrays) == len(cells) and len({(cell.dtype, cell.shape) for cell in arrays}) == 1:
        inner = np.stack(arrays)
    else:
        try:
            shape, flat = flatten([cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells])
        except Misfit:
            return None
        inner = as_array(flat, np.dtype(object)).reshape(shape)
    return inner.reshape(array.shape + inner.shape[1:])


def _texts(name: str, values: list[Any], shape: tuple[int, ...]) -> Array:
    try:
        elements = [value if isinstance(value, bytes) else _text(value) for value in values]
        "".join([element for element in elements if isinstance(element, str)]).encode()
    except (TypeError, UnicodeEncodeError):
        message = f"output '{name}' has text with half a character, which is not UTF-8, or is nested too deep"
        raise ModelFailed(message, {"output": name}) from None
    return as_array(elements, np.dtype(object)).reshape(shape)


def _text(value: Any) -> str:
    """Format a value as text: null is empty, a value other than text is JSON."""
    converted = value if isinstance(value, str) else plain(value)
    if converted is None:
        return ""
    return converted if isinstance(converted, str) else orjson.dumps(converted).decode()
