"""Columnar rows on their way through the product: a request's input, a batch of inputs, a model's output.

A `Rows` is one request's validated input. Inputs with the same `Layout` may be stacked into one `Batch`; the `Output`
of a batch is cut apart again by row count. All of them are plain tuples of names and numpy arrays, cheap to pickle
between deployments and free of pandas, which only the process that hosts a model imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from app.errors import ModelFailed, WrongRowCount

Array = np.ndarray[Any, np.dtype[Any]]
Values = list[Any] | Array
"""The values of one column: Python values that `dtype` holds exactly, or an array whose first axis is the rows."""


class Layout(NamedTuple):
    """What two inputs must have in common to share one call of the model.

    `kind` says what the model is given: a DataFrame (``columns``), one array (``tensor``) or a dict of arrays
    (``tensors``). `names` are the labels of the columns, whole numbers where the model was trained on a frame without
    column names. `dtypes` holds one numpy dtype string per name, and one alone for a tensor, whose `names` is empty.
    `shapes` holds the shape of one row of each, ``()`` for a column. `params` is canonical JSON, empty for none.
    """

    kind: Literal["columns", "tensor", "tensors"]
    names: tuple[str | int, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    params: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """One request's input: `columns` in the order of ``layout.dtypes``, each with `count` values."""

    layout: Layout
    columns: tuple[Values, ...]
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values, estimated: exact for arrays, by item size (64 for objects) for lists."""
        row_bytes = _row_bytes(self.layout.dtypes, self.layout.shapes)
        if row_bytes is not None:
            return row_bytes * self.count
        total = 0
        for values, dtype in zip(self.columns, self.layout.dtypes, strict=True):
            if isinstance(values, np.ndarray) and not values.dtype.hasobject:
                total += values.nbytes
            elif dtype == "object":
                total += _objects_bytes(values)
            else:
                total += len(values) * np.dtype(dtype).itemsize
        return total

    def cut(self, start: int, stop: int) -> Rows:
        """The rows from `start` to `stop`, that one left out. Arrays are not copied."""
        return Rows(self.layout, tuple(values[start:stop] for values in self.columns), stop - start)


def _objects_bytes(values: Iterable[Any]) -> int:
    """Bytes of objects, estimated."""
    return sum(64 + len(value) if isinstance(value, str | bytes) else 64 for value in values)


@lru_cache(maxsize=1024)
def _row_bytes(dtypes: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> int | None:
    """Bytes of one row, None where they depend on its values."""
    found = [np.dtype(dtype) for dtype in dtypes]
    if any(dtype.hasobject or not dtype.itemsize for dtype in found):
        return None
    return sum(dtype.itemsize * prod(shape) for dtype, shape in zip(found, shapes, strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """The stacked input of one call: arrays in the order of ``layout.dtypes``, first axis the rows.

    Columns of one dtype travel between processes as one array, `block`, of which `arrays` are then the rows: packed and
    unpacked one by one, a hundred of them cost several times as much.
    """

    layout: Layout
    arrays: tuple[Array, ...]
    count: int
    block: Array | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        block = self.block if self.block is not None else _one_block(self)
        if block is None:
            return Batch, (self.layout, self.arrays, self.count)
        return _from_block, (self.layout, block, self.count)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; of objects only what points to them."""
        return sum(array.nbytes for array in self.arrays)


def _one_block(batch: Batch) -> Array | None:
    dtypes = {array.dtype for array in batch.arrays}
    if batch.layout.kind != "columns" or len(batch.arrays) < 2 or len(dtypes) > 1 or dtypes.pop().hasobject:
        return None
    return np.stack(batch.arrays)


def _from_block(layout: Layout, block: Array, count: int) -> Batch:
    return Batch(layout, tuple(block), count, block)


def stack(parts: Sequence[Rows]) -> Batch:
    """Stack inputs of one layout, in order. Every array is built once, however many parts there are."""
    layout = parts[0].layout
    arrays = []
    for index, (dtype, shape) in enumerate(zip(layout.dtypes, layout.shapes, strict=True)):
        columns = [part.columns[index] for part in parts]
        if not any(isinstance(column, np.ndarray) for column in columns):
            values = columns[0] if len(columns) == 1 else list(chain.from_iterable(columns))
            arrays.append(as_array(values, np.dtype(dtype), shape))
        elif len(columns) == 1:
            arrays.append(np.asarray(columns[0], dtype=dtype))
        else:
            arrays.append(np.concatenate([as_array(column, np.dtype(dtype), shape) for column in columns]))
    return Batch(layout, tuple(arrays), sum(part.count for part in parts))


def as_array(values: Values, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Array:
    """The values as one array of `dtype` whose rows have `shape`; lists inside an object column stay lists."""
    if dtype.hasobject and not isinstance(values, np.ndarray):
        # np.array() would turn a list of equally long lists into a matrix.
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.asarray(values, dtype=dtype).reshape((len(values), *shape))


@dataclass(frozen=True, slots=True)
class Output:
    """What a model answered for `count` rows.

    `names` is empty for an unnamed array, and else names one array each: the columns of a DataFrame (``columns``) or
    the entries of a dict of arrays (``tensors``). The first axis of every array is the rows.
    """

    kind: Literal["columns", "tensor", "tensors"]
    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values, estimated where they are objects, as in `Rows`."""
        return sum(_objects_bytes(array.flat) if array.dtype.hasobject else array.nbytes for array in self.arrays)

    def split(self, counts: Sequence[int]) -> list[Output]:
        """Cut into consecutive outputs of so many rows each.

        Raises:
            WrongRowCount: the rows asked for and the rows answered differ, so no row can be told whose it is.
        """
        asked = sum(counts)
        if asked != self.count or any(len(array) != asked for array in self.arrays):
            raise WrongRowCount(
                f"the model answered {self.count} rows for {asked}", {"rows": asked, "answered": self.count}
            )
        if len(counts) == 1:
            return [self]
        parts, start = [], 0
        for count in counts:
            stop = start + count
            arrays = tuple(array[start:stop] for array in self.arrays)
            parts.append(Output(self.kind, self.names, arrays, count))
            start = stop
        return parts


def join(outputs: Sequence[Output]) -> Output:
    """Put the answers to consecutive rows together, as if they had been one answer.

    Dtypes that differ become the one that numpy promotes them to, as a model's own column would where only some of its
    rows have a fraction or a gap. Text beside anything else becomes objects: numpy would write numbers as text.

    Raises:
        ModelFailed: the answers differ in form, in names or in the shape of a row, so they are not parts of one.
    """
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if any((output.kind, output.names) != (first.kind, first.names) for output in outputs):
        raise _unlike("form or names")
    arrays = []
    for given in zip(*(output.arrays for output in outputs), strict=True):
        parts: Sequence[Array] = given
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise _unlike("the shape of a row")
        kinds = {part.dtype.kind for part in parts}
        if len(kinds) > 1 and kinds & {"U", "S"}:
            parts = [part.astype(object) for part in parts]
        try:
            arrays.append(np.concatenate(parts))
        except TypeError:  # dates beside numbers, say
            raise _unlike("type") from None
    return Output(first.kind, first.names, tuple(arrays), sum(output.count for output in outputs))


def _unlike(what: str) -> ModelFailed:
    return ModelFailed(
        f"the model's answers to parts of the request differ in {what} and cannot be joined: send fewer rows, or "
        "have the model tagged serving.batch.max_rows=1, which keeps its requests whole"
    )
