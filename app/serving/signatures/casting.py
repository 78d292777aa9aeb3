"""Conversion of callers' arrays to the types of a signature, without Python work per value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from app.serving.json_depth import is_deeper, may_be_deeper
from app.serving.rows import Array
from app.serving.signatures.validation_errors import Misfit, refusal

_MAX_DEPTH = 32


def exact(array: Array, dtype: str) -> Array | None:
    """Convert numbers to `dtype`, rounded as JSON numbers would be. An array of that dtype is returned as it is.

    None if a value does not fit or is not a number: checking value by value then finds the error to report.
    """
    target = np.dtype(dtype or "object")
    if array.dtype == target and dtype:
        return array
    if array.dtype.kind not in "iuf" or target.kind not in "iuf":
        return None
    if target.kind == "f":
        # JSON numbers are 64-bit floats first: a 64-bit integer is rounded twice on its way to a narrower float.
        wide = array.astype(np.float64) if array.dtype.kind != "f" else array
        with np.errstate(over="ignore", invalid="ignore"):  # invalid: a signaling NaN
            cast = wide.astype(target)
        narrower = target.itemsize < array.dtype.itemsize or array.dtype.kind != "f"
        return None if narrower and not np.array_equal(np.isfinite(array), np.isfinite(cast)) else cast
    if array.size:
        bounds = np.iinfo(target)
        low, high = array.min().item(), array.max().item()  # NaN if the array has one
        if array.dtype.kind == "f":
            # Compared as floats: the largest 64-bit integer rounds up to one that is too large.
            if not (low >= bounds.min and high < float(bounds.max) + 1 and (np.trunc(array) == array).all()):
                return None
        elif low < bounds.min or high > bounds.max:
            return None
    return array.astype(target)


def texts(name: str, array: Array) -> Array:
    """Decode BYTES elements as text. Raises `InvalidInput` if one is not UTF-8."""
    return array if {*map(type, array.ravel())} == {str} else _each(name, array, _text, "UTF-8 text")


def documents(name: str, array: Array) -> Array:
    """Parse BYTES elements as JSON. Raises `InvalidInput` if one is not JSON."""
    return _each(name, array, _document, f"JSON text at most {_MAX_DEPTH} levels deep")


def _each(name: str, array: Array, read: Callable[[Any], Any], expected: str) -> Array:
    values = array.ravel().tolist()
    converted = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        try:
            converted[index] = read(value)
        except ValueError:
            misfit = Misfit(value, expected)
            misfit.locate(index, array.shape)
            raise refusal(name, misfit) from None
    return converted.reshape(array.shape)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _document(value: Any) -> Any:
    text = value.encode() if isinstance(value, str) else value
    document = orjson.loads(text)
    # A deeper document could not be pickled on its way to the model.
    if may_be_deeper(text, _MAX_DEPTH) and is_deeper(document, _MAX_DEPTH):
        raise ValueError
    return document
