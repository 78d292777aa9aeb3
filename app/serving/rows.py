"""Columnar data: the input of a request, a batch of inputs, the output of a model.

`Rows` is the validated input of one request. Inputs with the same `Layout` can be stacked into one `Batch`, and the
`Output` of a batch is split again by row count. All of them are tuples of names and numpy arrays: cheap to pickle
between deployments, and free of pandas, which only the processes that host models import.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from app.errors import ModelFailed

Array = np.ndarray[Any, np.dtype[Any]]
Values = list[Any] | Array
"""Values of one column: Python values that its dtype holds exactly, or an array whose first axis is the rows."""

_SMALL = {float, int, bool, type(None)}


class WrongRowCount(ValueError):
    """A model answered a batch with another number of items than it has rows, so they belong to no request."""


class RowLabels(NamedTuple):
    """Labels of a DataFrame's rows: tuples if the index has several levels. `names` has the name of each level."""

    values: tuple[Any, ...]
    names: tuple[str | None, ...] = (None,)


class Layout(NamedTuple):
    """The properties that inputs must share to be predicted in one call.

    Attributes:
        kind: what the model gets: a DataFrame (``columns``), one array (``tensor``), a dict of arrays (``tensors``) or
            a list of Python values (``list``).
        names: labels of the columns, whole numbers if the model was trained on a DataFrame without column names; empty
            for a tensor or a list.
        dtypes: one numpy dtype string per name; a single one for a tensor.
        shapes: shape of one row of each, ``()`` for a column.
        params: canonical JSON of the parameters, empty for none.
        alone: the input can be neither stacked nor cut: it has row labels, no rows, arrays of different lengths, or
            arrays without dimensions.
        labels: labels of a DataFrame's rows, None for 0, 1, and so on.
    """

    kind: Literal["columns", "tensor", "tensors", "list"]
    names: tuple[str | int, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    params: str = ""
    alone: bool = False
    labels: RowLabels | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The input of one request: `columns` in the order of ``layout.dtypes``, each with `count` values."""

    layout: Layout
    columns: tuple[Values, ...]
    count: int
    block: Array | None = None  # its rows are the columns, if the caller sent them as one array

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes: exact for arrays, estimated for objects.

        An object counts 64 bytes and its text or values, a number or null among objects 32.
        """
        row_bytes = None if self.layout.alone else _row_bytes(self.layout.dtypes, self.layout.shapes)
        if row_bytes is not None:
            return row_bytes * self.count
        total = _objects_bytes(self.layout.labels.values) if self.layout.labels is not None else 0
        for values, dtype in zip(self.columns, self.layout.dtypes, strict=True):
            if isinstance(values, np.ndarray):
                total += _array_bytes(values)
            elif dtype == "object":
                total += _objects_bytes(values)
            else:
                total += len(values) * np.dtype(dtype).itemsize
        return total

    def cut(self, start: int, stop: int) -> Rows:
        """Return the rows from `start` up to, not including, `stop`. Arrays are not copied."""
        block = self.block[:, start:stop] if self.block is not None else None
        return Rows(self.layout, tuple(values[start:stop] for values in self.columns), stop - start, block)

    def labeled(self, labels: RowLabels) -> Rows:
        """Return the rows with these labels, which only a DataFrame has; arrays stay as they are."""
        if self.layout.kind != "columns":
            return self
        return Rows(self.layout._replace(alone=True, labels=labels), self.columns, self.count)


def _objects_bytes(values: Collection[Any]) -> int:
    """Estimate the bytes of objects and of everything in them. Iterative, because they may be nested deep."""
    total, pending = 0, [values]
    while pending:
        values = pending.pop()
        total += 32 * len(values)
        kinds = {*map(type, values)}
        if kinds <= _SMALL:
            continue
        if kinds == {str}:  # the usual case, at a quarter of the cost
            total += 32 * len(values) + sum(map(len, values))
            continue
        for value in values:
            if type(value) in _SMALL:
                continue
            total += 32
            if isinstance(value, str | bytes | bytearray):
                total += len(value)
            elif isinstance(value, dict):
                pending += (value, value.values())
            elif isinstance(value, list | tuple):
                pending.append(value)
            elif isinstance(value, np.ndarray):
                total += _array_bytes(value)
    return total


def _array_bytes(array: Array) -> int:
    return _objects_bytes(array.ravel().tolist()) if array.dtype.hasobject else array.nbytes


@lru_cache(maxsize=1024)
def _row_bytes(dtypes: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> int | None:
    """Return the size of one row in bytes; None if it depends on the values."""
    found = [np.dtype(dtype) for dtype in dtypes]
    if any(dtype.hasobject or not dtype.itemsize for dtype in found):
        return None
    return sum(dtype.itemsize * prod(shape) for dtype, shape in zip(found, shapes, strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """The stacked input of one call: arrays in the order of ``layout.dtypes``, whose first axis is the rows.

    Columns of one dtype are pickled as one array, `block`, whose rows are the `arrays`: pickling a hundred arrays one
    by one costs several times as much.
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
        """Size of the values and labels in bytes, estimated for objects as in `Rows`."""
        if "object" not in self.layout.dtypes and self.layout.labels is None:
            return sum(array.nbytes for array in self.arrays)
        labels = _objects_bytes(self.layout.labels.values) if self.layout.labels is not None else 0
        return labels + sum(map(_array_bytes, self.arrays))


def _one_block(batch: Batch) -> Array | None:
    dtypes = {array.dtype for array in batch.arrays}
    if batch.layout.kind != "columns" or len(batch.arrays) < 2 or len(dtypes) > 1 or dtypes.pop().hasobject:
        return None
    return np.stack(batch.arrays)


def _from_block(layout: Layout, block: Array, count: int) -> Batch:
    return Batch(layout, tuple(block), count, block)


def stack(parts: Sequence[Rows]) -> Batch:
    """Stack inputs of one layout, in order; one that is ``alone`` has no others beside it.

    Each array is built once, for any number of parts.
    """
    layout, count = parts[0].layout, sum(part.count for part in parts)
    blocks = [part.block for part in parts if part.block is not None]
    if len(blocks) == len(parts):
        block = np.empty((len(layout.dtypes), count), layout.dtypes[0])  # a copy: models may write to their input
        return Batch(layout, tuple(np.concatenate(blocks, axis=1, out=block)), count, block)
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
    return Batch(layout, tuple(arrays), count)


def as_array(values: Values, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Array:
    """Make one array of `dtype` whose rows have `shape`; lists inside an object column stay lists."""
    if dtype.hasobject and not isinstance(values, np.ndarray):
        # np.array() would turn a list of equally long lists into a matrix.
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.asarray(values, dtype=dtype).reshape((len(values), *shape))


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a model: `count` items, which are its rows if it has one for each row of the input.

    Attributes:
        kind: what the model answered. ``columns``: a DataFrame, or a list of dicts with equal keys. ``tensor``: an
            array or a list. ``series``: a Series. ``tensors``: a dict of arrays. ``tuple``: a tuple of arrays.
            ``value``: anything else, such as a number, a text or a dict; it has no rows.
        names: the name of each array. Empty for a tensor, a value, and a Series without a name; ``output_0`` and so on
            for a tuple.
        arrays: their first axis is the items. The only array of a value has one cell, which holds it.
    """

    kind: Literal["columns", "tensor", "series", "tensors", "tuple", "value"]
    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    count: int

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes, estimated for objects as in `Rows`."""
        return sum(map(_array_bytes, self.arrays))

    def has_rows(self, count: int) -> bool:
        """Return whether there is one item for each of `count` rows. A value belongs to the whole input."""
        return self.kind != "value" and all(len(array) == count for array in self.arrays)

    @property
    def amount(self) -> str:
        """How many items there are, for messages."""
        lengths = sorted({len(array) for array in self.arrays})
        return "one value" if self.kind == "value" else f"{' and '.join(map(str, lengths))} items"

    def split(self, counts: Sequence[int]) -> list[Output]:
        """Split into consecutive outputs with these row counts. The answer to a single request stays as it is.

        Raises:
            WrongRowCount: the model answered another number of items.
        """
        if len(counts) == 1:
            return [self]
        asked = sum(counts)
        if not self.has_rows(asked):
            raise WrongRowCount(f"it answered {self.amount} for {asked} rows")
        parts, start = [], 0
        for count in counts:
            stop = start + count
            arrays = tuple(array[start:stop] for array in self.arrays)
            parts.append(Output(self.kind, self.names, arrays, count))
            start = stop
        return parts


def join(outputs: Sequence[Output]) -> Output:
    """Join outputs for consecutive rows.

    Different dtypes are promoted as numpy does, like a model's own column in which only some rows have a fraction or a
    null. Text beside another dtype becomes objects: numpy would turn numbers into text.

    Raises:
        ModelFailed: the outputs differ in form, in names or in the shape of a row.
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
    return ModelFailed(f"its answers to parts of a request differ in {what}")
