"""Conversion of nested lists to numpy arrays, of a declared dtype and shape or of inferred ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Literal

import numpy as np

from app.errors import InvalidInput, TooLarge
from app.serving.rows import Array, Layout, Rows, Values, as_array
from app.serving.signatures.casting import exact
from app.serving.signatures.columns import ColumnType, dtype_name
from app.serving.signatures.scalars import element_type
from app.serving.signatures.validation_errors import Misfit, no_dimensions, refusal, short, wrong_shape

MAX_CHARACTERS = 2**26
"""Limit on the characters of text arrays, whose elements all take the space of the longest: 256 MiB."""

MAX_BATCHED_TEXT = 2**12
"""Bytes of a text element, four per character, above which a request is predicted alone: all others beside it would
become as wide."""


class TensorSpec:
    """One tensor of a signature.

    Args:
        name: its name, empty for the only tensor of a signature without names.
        dtype: numpy's name of a boolean, integer, float (up to 64 bits), text, bytes, datetime or object dtype.
        shape: of the whole tensor; the first dimension is the rows, -1 is any length.

    Raises:
        KeyError: the dtype is unsupported, or the shape has no dimensions.
    """

    def __init__(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        self.name = name
        self.shape = tuple(shape)
        self._dtype = np.dtype(dtype)
        self.dtype = dtype_name(self._dtype)
        self._elements = element_type(self._dtype, self._dtype.name)
        if not self.shape:
            raise KeyError(f"a tensor without rows: {name}")

    def convert(self, values: Any) -> Array:
        """Convert lists or an array; an array of the right dtype is not copied.

        Flat lists are reshaped if the shape of a row is fixed, as in MLflow. Arrays are not.

        Raises:
            InvalidInput: elements of another type, ragged lists, or another shape.
        """
        is_array = isinstance(values, np.ndarray)
        if is_array:
            if not values.ndim:
                raise no_dimensions(self.name)
            cast = values if dtype_name(values.dtype) == self.dtype else exact(values, self.dtype)
            if cast is not None:
                return self._shaped(cast)
            values = values.tolist()
        try:
            shape, flat = flatten(values, self.shape, deepest=len(self.shape) if self._dtype.hasobject else None)
            return self._shaped(build(self._elements, flat, shape, self._dtype), is_flat=not is_array)
        except Misfit as misfit:
            raise refusal(self.name, misfit) from None

    def _shaped(self, array: Array, *, is_flat: bool = False) -> Array:
        count, *row = self.shape
        if count not in (-1, len(array)):
            raise InvalidInput(
                f"the model takes exactly {count} rows per request, not {len(array)}",
                {"expected": count, "rows": len(array)},
            )
        if is_flat and array.ndim <= 2 and -1 not in row and prod(array.shape[1:]) == prod(row):
            array = array.reshape((len(array), *row))
        fits = array.ndim == len(self.shape) and all(
            want in (-1, has) for want, has in zip(row, array.shape[1:], strict=True)
        )
        if not fits:
            raise wrong_shape(self.name, array.shape, self.shape)
        return array


def untyped_tensors(tensors: Iterable[tuple[str, Any]]) -> Iterator[Array]:
    """Make arrays with the dtypes that numpy gives the values: numbers beside text become text.

    Args:
        tensors: names and values of one request.

    Raises:
        InvalidInput: the lists are ragged.
        TooLarge: together, the arrays would be far larger than their values.
    """
    characters = 0
    for name, values in tensors:
        if not isinstance(values, list):
            yield np.array(values)
            continue
        try:
            shape, flat = flatten(values)
        except Misfit as misfit:
            raise refusal(name, misfit) from None
        characters = _check_text(name, flat, characters)
        yield np.array(flat).reshape(shape)


def _check_text(name: str, flat: Values, before: int = 0) -> int:
    """Return the characters that a text array of these values takes, and the tensors `before` it.

    Raises:
        TooLarge: they are too many, because one text is far longer than the others.
    """
    longest = max([len(value) for value in flat if isinstance(value, str | bytes)], default=0)
    characters = before + longest * len(flat)
    if characters > MAX_CHARACTERS:
        others = f", beside {before} characters of other tensors" if before else ""
        raise TooLarge(
            f"{'tensor ' + short(name) if name else 'the input'} has {len(flat)} values, each of which takes the "
            f"{longest} characters of the longest{others}; at most {MAX_CHARACTERS} together are allowed",
            {"limit": MAX_CHARACTERS},
        )
    return characters


def tensor_rows(kind: Literal["columns", "tensor", "tensors"], arrays: Mapping[Any, Array], params: str) -> Rows:
    """Make the rows of a request from arrays with any dtypes and shapes; a ``tensor`` is the only one.

    Arrays of different lengths, and arrays without dimensions, are for named tensors.
    """
    lengths = [len(array) if array.ndim else -1 for array in arrays.values()]
    layout = Layout(
        kind=kind,
        names=tuple(arrays) if kind != "tensor" else (),
        dtypes=tuple([dtype_name(array.dtype) for array in arrays.values()]),
        shapes=tuple([array.shape[1:] for array in arrays.values()]),
        params=params,
        alone=len({*lengths}) != 1 or lengths[0] < 1 or any(map(_is_wide, arrays.values())),
    )
    return Rows(layout, tuple(arrays.values()), abs(max(lengths, default=0)))


def _is_wide(array: Array) -> bool:
    return array.dtype.kind in "US" and array.dtype.itemsize > MAX_BATCHED_TEXT


def flatten(values: Any, declared: Sequence[int] = (), deepest: int | None = None) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists, at most `deepest` dimensions, and their elements in row-major order.

    Raises:
        Misfit: the lists are ragged; lists of the `declared` length, if there are any, count as the right ones.
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
    misfit = Misfit(items[index], f"a list of {usual} values, as others are")
    misfit.locate(index, shape)
    return misfit


def build(elements: ColumnType, flat: list[Any], shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Make an array of elements in row-major order. Raises `Misfit` with the place of a wrong element."""
    try:
        values = elements.convert(flat)
    except Misfit as misfit:
        misfit.locate(misfit.row, shape)
        raise
    if dtype.kind in "US":
        _check_text("", values)
    if dtype.kind == "M":  # converted values are nanoseconds, whatever the tensor's unit
        return as_array(values, np.dtype(elements.dtype)).astype(dtype).reshape(shape)
    return as_array(values, dtype).reshape(shape)
