"""Input of a model with a column-based signature: a request's rows become columns of the model's DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Array, Layout, Rows, Values
from app.serving.signatures.casting import documents, exact, texts
from app.serving.signatures.columns import Column, ColumnType, as_lists, dtype_name
from app.serving.signatures.nested import NESTED, column_type, type_name
from app.serving.signatures.scalars import BinaryType, FloatType, IntegerType
from app.serving.signatures.validation_errors import (
    MOST_NAMES,
    Misfit,
    check_records,
    listed,
    no_dimensions,
    no_names,
    refusal,
    short,
    wrong_names,
    wrong_shape,
)

_LAYOUTS = 256
"""Limit on cached layouts per model: one per set of optional columns, of null booleans and of parameters in use."""


class ColumnInput:
    """The columns of one signature, compiled.

    The name of an unnamed column is its position: ``"0"``, ``"1"``, …. If the only column is unnamed and holds objects,
    each row is such an object.

    Raises:
        KeyError: a column has an unknown type.
    """

    tensor: Column | None = None
    fixed_rows: int | None = None

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        # A DataFrame without column names has whole numbers as labels, and MLflow writes them into the signature.
        self._labels: tuple[str | int, ...] = tuple(spec.get("name", index) for index, spec in enumerate(specs))
        self._names = tuple(map(str, self._labels))
        required = [spec.get("required") is not False for spec in specs]
        self._types = [column_type(spec, needed) for spec, needed in zip(specs, required, strict=True)]
        self.columns = tuple(
            Column(name, type_name(spec), needed, kind.dtype)
            for name, spec, needed, kind in zip(self._names, specs, required, self._types, strict=True)
        )
        self._width = len(specs)
        self._every = tuple(range(self._width))
        self._allowed = frozenset(self._names)
        self._required = frozenset(column.name for column in self.columns if column.required)
        self._by_name = dict(zip(self._names, self._types, strict=True))
        self._depths = dict(zip(self._names, map(_depth, specs), strict=True))
        dtypes = {kind.dtype for kind in self._types}
        self._varies = "" in dtypes
        numbers = len(dtypes) == 1 and all(isinstance(kind, FloatType | IntegerType) for kind in self._types)
        self._only_dtype = np.dtype(dtypes.pop()) if numbers else None
        only = specs[0]["type"] if self._width == 1 else ""
        self._rows_are_lists = only in ("array", "sparkml_vector", "any")
        # MLflow infers this signature from the type hint of a model that takes a list of objects.
        self._rows_are_objects = only in ("object", "map", "any") and "name" not in specs[0]
        self._read = _reader(self._names)
        self._layout = lru_cache(_LAYOUTS)(self._make_layout)

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read rows as objects. An optional column that only some rows have is null in the others."""
        if self._rows_are_objects:
            return self._rows([records], len(records), params)
        if not records and self._required:
            raise no_names(self._names)
        try:
            complete = {*map(len, records)} == {self._width}
            columns = list(map(list, zip(*map(self._read, records), strict=True))) if complete else []
        except (KeyError, TypeError):
            columns = []
        if columns:
            return self._rows(columns, len(records), params)
        check_records(records, self._names, self._required)
        given = [index for index, name in enumerate(self._names) if any(name in record for record in records)]
        columns = [[record.get(self._names[index]) for record in records] for index in given]
        return self._rows(columns, len(records), params, tuple(given))

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Read values by column name: lists or arrays of one length, or one value each, which is one row."""
        return self._named(columns, params)

    def _named(self, columns: Mapping[str, Any], params: str) -> Rows:
        if not self._required <= columns.keys() <= self._allowed:
            raise wrong_names(columns, self._names, self._required)
        lists = as_lists(columns)
        given = tuple(index for index, name in enumerate(self._names) if name in lists)
        ordered = [_as_values(lists[self._names[index]], self._types[index]) for index in given]
        return self._rows(ordered, len(ordered[0]) if ordered else 0, params, given)

    def from_instances(self, instances: list[Any], params: str) -> Rows:
        """Read rows as objects, as lists with one value per column in order, or as the values of a single column."""
        if any(isinstance(instance, dict) for instance in instances):
            return self.from_records(instances, params)
        if not instances and (self._width > 1 or self._rows_are_lists):
            if self._required or self._rows_are_lists:
                raise no_names(self._names)
            return self._rows([], 0, params, ())
        lists = [isinstance(instance, list) for instance in instances]
        if self._rows_are_lists or (self._width == 1 and not (lists and all(lists))):
            return self._rows([instances], len(instances), params)
        for row, instance in enumerate(instances):
            if not lists[row] or len(instance) != self._width:
                raise InvalidInput(
                    f"row {row} is {short(instance)}, expected an object, or a list of {self._width} values "
                    f"in this order: {listed(self._names)}",
                    {"row": row, "expected": list(self._names[:MOST_NAMES])},
                )
        if {*map(type, chain.from_iterable(instances))} == {float}:
            matrix = np.array(instances, dtype=np.float64)
            return self._named(dict(zip(self._names, matrix.T, strict=True)), params)
        return self._rows(list(map(list, zip(*instances, strict=True))), len(instances), params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read values by column name, rows as in `from_instances`, or one value of a single column."""
        if not isinstance(inputs, dict):
            return self.from_instances(inputs if isinstance(inputs, list) else [inputs], params)
        # MLflow reads the whole object as one row if types are lists themselves. Here only if it can be one.
        if any(self._depths.values()) and all(
            _nesting(value) <= self._depths.get(name, 0) for name, value in inputs.items()
        ):
            return self.from_records([inputs], params)
        return self.from_columns(inputs, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read one ``[n]`` or ``[n, 1]`` array per column, or one ``[n, width]`` array of any name for all in order."""
        if len(tensors) == 1:
            ((name, only),) = tensors.items()
            if name not in self._allowed and only.ndim == 2 and only.shape[1] == self._width:
                if len(only) and self._only_dtype is not None and only.dtype == self._only_dtype:
                    return Rows(self._layout(params, self._every, ()), tuple(only.T), len(only), only.T)
                tensors = {column: only[:, index] for index, column in enumerate(self._names)}
        if self._only_dtype is not None and tensors.keys() == self._allowed:
            arrays = [tensors[name] for name in self._names]
            dtype, shape = self._only_dtype, arrays[0].shape
            if len(shape) == 1 and shape[0] and all(one.dtype == dtype and one.shape == shape for one in arrays):
                return Rows(self._layout(params, self._every, ()), tuple(arrays), shape[0])
        if not self._required <= tensors.keys() <= self._allowed:
            raise wrong_names(tensors, self._names, self._required)
        return self._named({name: self._tensor(name, array) for name, array in tensors.items()}, params)

    def _tensor(self, name: str, array: Array) -> Array:
        kind, depth = self._by_name[name], self._depths[name]
        if not array.ndim:
            raise no_dimensions(name)
        if array.ndim == 2 and array.shape[1] == 1 and not depth:
            array = array[:, 0]
        if array.ndim > 1 + depth:
            raise wrong_shape(name, array.shape, (-1,) * (1 + depth))
        if not array.dtype.hasobject or isinstance(kind, BinaryType):
            return array
        # An array column takes a tensor with one more dimension or, like other nested types, one JSON text per row.
        return documents(name, array) if isinstance(kind, NESTED) and array.ndim == 1 else texts(name, array)

    def _rows(self, columns: Sequence[Values], count: int, params: str, given: tuple[int, ...] | None = None) -> Rows:
        """Validate the columns with the indices `given`, in order; None for all."""
        given = self._every if given is None else given
        types = self._types if len(given) == self._width else [self._types[index] for index in given]
        converted: list[Values] = []
        try:
            for kind, values in zip(types, columns, strict=True):
                converted.append(values if isinstance(values, np.ndarray) else kind.convert(values))
        except Misfit as misfit:
            raise refusal(self._names[given[len(converted)]], misfit) from None
        varying: tuple[str, ...] = ()
        if self._varies:
            varying = tuple(
                dtype_name(values.dtype)
                for kind, values in zip(types, converted, strict=True)
                if not kind.dtype and isinstance(values, np.ndarray)
            )
        layout = self._layout(params, given, varying)
        return Rows(layout if count and given else layout._replace(alone=True), tuple(converted), count)

    def _make_layout(self, params: str, given: tuple[int, ...], varying: tuple[str, ...]) -> Layout:
        dtypes = iter(varying)
        return Layout(
            kind="columns",
            names=tuple(self._labels[index] for index in given),
            dtypes=tuple(self._types[index].dtype or next(dtypes) for index in given),
            shapes=((),) * len(given),
            params=params,
        )


def _reader(names: tuple[str, ...]) -> Callable[[Any], Any]:
    if len(names) > 1:
        return itemgetter(*names)
    (name,) = names  # itemgetter of a single name makes no tuple
    return lambda record: (record[name],)


def _as_values(values: Values, kind: ColumnType) -> Values:
    """Keep arrays that the model can get as they are; anything else becomes a list to validate."""
    if not isinstance(values, np.ndarray):
        return values
    if values.ndim == 2 and values.shape[1] == 1 and kind.dtype != "object":
        values = values[:, 0]
    cast = exact(values, kind.dtype) if values.ndim == 1 and kind.dtype != "object" else None
    return list(values.tolist()) if cast is None else cast


def _depth(spec: Mapping[str, Any]) -> int:
    """Count the nested lists in a value of the type."""
    if spec["type"] == "sparkml_vector":
        return 1
    return 1 + _depth(spec["items"]) if spec["type"] == "array" else 0


def _nesting(value: Any) -> int:
    if not isinstance(value, list | tuple):
        return value.ndim if isinstance(value, np.ndarray) else 0
    return 1 + next((_nesting(item) for item in value if item is not None), 0)
