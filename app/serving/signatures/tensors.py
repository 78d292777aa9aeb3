"""Tensors: how nested lists become one numpy array, of a declared dtype and shape or of those that they have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Array, as_array
from app.serving.signatures.casting import exact
from app.serving.signatures.columns import ColumnType, dtype_name
from app.serving.signatures.scalars import Binary, Boolean, Datetime, Float, Integer, Text, Untyped
from app.serving.signatures.validation_errors import Misfit, refusal, without_rows, wrong_shape


class Tensor:
    """One tensor of a signature.

    Args:
        name: what callers call it, empty for the only one of a signature without names.
        dtype: numpy's name of truth values, integers, floats up to 64 bits, text, bytes, datetimes or objects.
        shape: of the whole tensor, -1 for a free dimension; the first are the rows.

    Raises:
        KeyError: the dtype cannot be read from JSON, or there is no dimension of rows.
    """

    def __init__(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        self.name = name
        self.shape = tuple(shape)
        self._dtype = np.dtype(dtype)
        self.dtype = dtype_name(self._dtype)
        self._elements = _elements(self._dtype)
        if not self.shape:
            raise KeyError(f"a tensor without rows: {name}")

    def convert(self, values: Any) -> Array:
        """The tensor as an array; one of the right dtype is not copied.

        Flat rows take the shape of a row where that is fixed, as they do in MLflow.

        Raises:
            InvalidInput: elements of another type, ragged lists, or another shape.
        """
        if isinstance(values, np.ndarray):
            if not values.ndim:
                raise without_rows(self.name)
            cast = values if dtype_name(values.dtype) == self.dtype else exact(values, self.dtype)
            if cast is not None:
                return self._shaped(cast)
            values = values.tolist()
        try:
            shape, flat = flatten(values, self.shape, deepest=len(self.shape) if self._dtype.hasobject else None)
            array = _build(self._elements, flat, shape, self._dtype)
        except Misfit as misfit:
            raise refusal(self.name, misfit) from None
        return self._shaped(array)

    def _shaped(self, array: Array) -> Array:
        count, *row = self.shape
        if count not in (-1, len(array)):
            raise InvalidInput(
                f"the model takes exactly {count} rows at a time, not {len(array)}",
                {"expected": count, "rows": len(array)},
            )
        if array.ndim <= 2 and -1 not in row and prod(array.shape[1:]) == prod(row):
            array = array.reshape((len(array), *row))
        fits = array.ndim == len(self.shape) and all(
            want in (-1, has) for want, has in zip(row, array.shape[1:], strict=True)
        )
        if not fits:
            raise wrong_shape(self.name, array.shape, self.shape)
        return array


def untyped_tensor(name: str, values: Any) -> Array:
    """Nested lists as an array of the dtype that they have: int64, float64, bool, str, or object for a mixture.

    Raises:
        InvalidInput: the lists are ragged.
    """
    if isinstance(values, np.ndarray):
        return values
    try:
        shape, flat = flatten(values)
    except Misfit as misfit:
        raise refusal(name, misfit) from None
    if {*map(type, flat)} == {str}:
        return np.array(flat, dtype=str).reshape(shape)
    return Untyped().convert(flat).reshape(shape)


def flatten(values: Any, declared: Sequence[int] = (), deepest: int | None = None) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists and their elements in row-major order, at most `deepest` dimensions.

    Raises:
        Misfit: the lists are ragged; where some have the `declared` length it is the others that are wrong.
    """
    if not isinstance(values, list | tuple):
        raise Misfit(values, "a list")
    shape: tuple[int, ...] = (len(values),)
    flat = list(values)
    while deepest is None or len(shape) < deepest:
        kinds = {*map(type, flat)}
        if list not in kinds:
            break
        if kinds != {list} or len({*map(len, flat)}) > 1:
            raise _ragged(flat, shape, declared)
        shape = (*shape, len(flat[0]))
        flat = list(chain.from_iterable(flat))
    return shape, flat


def _ragged(items: list[Any], shape: tuple[int, ...], declared: Sequence[int]) -> Misfit:
    lengths = [len(item) if isinstance(item, list) else -1 for item in items]
    usual = next(length for length in lengths if length >= 0)
    if len(shape) < len(declared) and declared[len(shape)] in lengths:
        usual = declared[len(shape)]
    index = next(index for index, length in enumerate(lengths) if length != usual)
    return _located(Misfit(items[index], f"a list of {usual} values, as others are"), index, shape)


def _located(misfit: Misfit, index: int, shape: tuple[int, ...]) -> Misfit:
    """Where the item with this index in row-major order is."""
    misfit.row, *inner = map(int, np.unravel_index(index, shape))
    misfit.path = "".join(f"[{position}]" for position in inner)
    return misfit


def _build(elements: ColumnType, flat: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    try:
        values = elements.convert(flat)
    except Misfit as misfit:
        raise _located(misfit, misfit.row, shape) from None
    # Datetimes come as nanoseconds, whatever the tensor's unit.
    built = np.dtype(elements.dtype) if dtype.kind == "M" else dtype
    return as_array(values, built).astype(dtype, copy=False).reshape(shape)


def _elements(dtype: np.dtype[Any]) -> ColumnType:
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return Float(dtype.name, dtype.name)
    if dtype.kind in "iu":
        return Integer(dtype.name, dtype.name)
    kinds: dict[str, ColumnType] = {
        "b": Boolean(required=True),
        "U": Text(required=True),
        "S": Binary(required=True),
        "M": Datetime(required=True),
        "O": Untyped(),
    }
    return kinds[dtype.kind]
