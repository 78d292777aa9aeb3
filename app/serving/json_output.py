"""Conversion of a model's output to JSON values; `app.api.mlflow.answers` has MLflow's own form.

NaN and infinities become null, datetimes ISO 8601 text, bytes base64. Integers keep all their digits.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from app.errors import ModelFailed
from app.serving.rows import Array, Output, as_array

_FEW = 64
_PLAIN = {str, bool, type(None)}
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
"""Range of the integers that JSON libraries write and read exactly."""

UNSENDABLE = (ValueError, TypeError, RecursionError)
"""What conversions raise for answers that have no form."""


def predictions(output: Output) -> Any:
    """Convert an output to JSON in the form that the model gave it.

    An unnamed array or a Series becomes nested lists, a tuple a list of them, columns one dict per row, named tensors a
    dict of lists. A value becomes itself.

    Raises:
        ModelFailed: the output has a value without a JSON form.
    """
    try:
        if output.kind == "tensor":  # the usual case
            return array_values(output.arrays[0])
        return arranged(output, [array_values(array) for array in output.arrays])
    except UNSENDABLE as error:
        raise unsendable() from error


def unsendable() -> ModelFailed:
    """Make the error for an answer whose conversion to a response raised one of `UNSENDABLE`."""
    return ModelFailed(
        "the model answered what no response can hold: half a character in a name, a whole number of thousands of "
        "digits, or values nested too deep"
    )


def arranged(output: Output, lists: list[Any]) -> Any:
    """Put the JSON of an output's arrays into the form of its kind, which is not ``tensor``."""
    kind = output.kind
    if kind == "series":
        return lists[0]
    if kind == "value":
        return lists[0][0]
    if kind == "tuple":
        return lists
    if kind == "tensors":
        return dict(zip(output.names, lists, strict=True))
    return [dict(zip(output.names, row, strict=True)) for row in zip(*lists, strict=True)]


def array_values(array: Array) -> Any:  # noqa: PLR0911  # one line for each kind of array
    """Convert an array to nested lists of JSON values. Raises as `predictions`."""
    kind = array.dtype.kind
    if kind == "f":
        if array.ndim == 1 and len(array) <= _FEW:
            # A finite sum has only finite terms, and costs less here than a call of numpy.
            few: list[Any] = array.tolist()
            if math.isfinite(sum(few)):
                return few
        finite = np.isfinite(array)
        if finite.all():
            return array.tolist()
        # numpy widens 32-bit floats exactly, and only an object array can hold None.
        boxed = array.astype(object)
        boxed[~finite] = None
        return boxed.tolist()
    if kind in "biuUT":
        return array.tolist()
    if kind == "M":
        return _datetimes(array)
    if kind == "m":
        return array_values(array / np.timedelta64(1, "s"))
    if kind in "OS":
        return [plain(item) for item in array.tolist()]
    raise ModelFailed(f"the model answered {array.dtype.name}, which has no JSON form", {"dtype": array.dtype.name})


def plain(item: Any) -> Any:  # noqa: PLR0911, PLR0912  # one line for each kind of value
    """Convert any value and the values inside it to JSON values. Durations are seconds. Raises as `predictions`."""
    if type(item) in _PLAIN:
        return item
    if isinstance(item, np.ndarray):
        return array_values(item) if item.ndim else plain(item[()])
    if isinstance(item, np.generic):
        return array_values(np.array([item]))[0]
    if isinstance(item, str):
        return item
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if isinstance(item, int):
        return item if _LOWEST <= item <= _HIGHEST else str(item)
    if isinstance(item, Mapping):
        return {str(key): plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        return [plain(value) for value in item]
    if isinstance(item, bytes | bytearray):
        return base64.b64encode(item).decode("ascii")
    if isinstance(item, timedelta):
        return plain(item.total_seconds())
    if isinstance(item, Decimal):
        return str(item) if item.is_finite() else None
    if isinstance(item, UUID):
        return str(item)
    if hasattr(item, "isoformat"):
        text = item.isoformat()
        return None if text == "NaT" else text
    if hasattr(item, "tolist"):
        return plain(item.tolist())
    if type(item).__name__ == "NAType":  # pandas' missing value, without importing pandas
        return None
    raise ModelFailed(f"the model answered a value of type {type(item).__name__}, which has no JSON form")


def _datetimes(array: Array) -> Any:
    texts = [_trimmed(text) for text in np.datetime_as_string(array).ravel().tolist()]
    return as_array(texts, np.dtype(object)).reshape(array.shape).tolist()


def _trimmed(text: str) -> str | None:
    """Shorten ISO 8601 text to no fraction, microseconds, or nanoseconds, as Python writes it. NaT is None."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if not fraction:
        return None if whole == "NaT" else whole
    return f"{whole}.{fraction.ljust(6 if len(fraction) <= 6 else 9, '0')}"
