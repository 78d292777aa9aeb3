"""Arrays as callers send them, turned into what the types of a signature take, without Python's work per value."""

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
    """Numbers as `dtype`, rounded as they would be if they came as JSON; the array itself where nothing changes.

    None where some value does not fit, or where these are no numbers: then a look at each value tells what is wrong.
    """
    target = np.dtype(dtype or "object")
    if array.dtype == target and dtype:
        return array
    if array.dtype.kind not in "iuf" or target.kind not in "iuf":
        return None
    if target.kind == "f":
        # JSON's numbers are 64-bit floats first: an integer of 64 bits is rounded twice on its way to a narrower one.
        wide = array.astype(np.float64) if array.dtype.kind != "f" else array
        with np.errstate(over="ignore", invalid="ignore"):  # invalid: a NaN that signals
            cast = wide.astype(target)
        # What is finite must not become infinite.
        narrower = target.itemsize < array.dtype.itemsize or array.dtype.kind != "f"
        return None if narrower and not np.array_equal(np.isfinite(array), np.isfinite(cast)) else cast
    return _whole(array, target)


def _whole(array: Array, target: np.dtype[Any]) -> Array | None:
    if not array.size:
        return array.astype(target)
    bounds = np.iinfo(target)
    low, high = array.min().item(), array.max().item()  # NaN, where there is one
    if array.dtype.kind == "f":
        # As floats: the largest integer of 64 bits rounds up to one that is too large.
        if not (low >= bounds.min and high < float(bounds.max) + 1 and (np.trunc(array) == array).all()):
            return None
    elif low < bounds.min or high > bounds.max:
        return None
    return array.astype(target)


def texts(name: str, array: Array) -> Array:
    """BYTES elements as text. Raises `InvalidInput` where one is not UTF-8."""
    if {*map(type, array.ravel())} == {str}:
        return array
    return _each(name, array, _text)


def documents(name: str, array: Array) -> Array:
    """BYTES elements that hold JSON, as its values. Raises `InvalidInput` where one is not JSON."""
    return _each(name, array, _document)


def _each(name: str, array: Array, read: Callable[[Any], Any]) -> Array:
    values = array.ravel().tolist()
    converted = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        try:
            converted[index] = read(value)
        except ValueError:
            misfit = Misfit(value, "UTF-8 text" if read is _text else f"JSON text at most {_MAX_DEPTH} levels deep")
            misfit.row, *inner = map(int, np.unravel_index(index, array.shape))
            misfit.path = "".join(f"[{position}]" for position in inner)
            raise refusal(name, misfit) from None
    return converted.reshape(array.shape)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _document(value: Any) -> Any:
    text = value.encode() if isinstance(value, str) else value
    document = orjson.loads(text)
    # What is deeper could not be pickled on its way to the model.
    if may_be_deeper(text, _MAX_DEPTH) and is_deeper(document, _MAX_DEPTH):
        raise ValueError
    return document
