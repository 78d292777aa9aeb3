"""Input of a model with a column-based signature: rows of the request become columns of its DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NoReturn

import numpy as np

from app.errors import InvalidInput
from app.serving.columns import Column, Misfit
from app.serving.naming import listed, resembling, short
from app.serving.nested import column_type, type_name
from app.serving.tables import Layout, Rows, Values

_LAYOUTS = 256
"""Layouts kept per model: one per set of optional columns, of nullable booleans and of parameters in use."""


class ColumnInput:
    """The columns of one signature, compiled.

    Columns without names are called by their position, ``"0"``, ``"1"``, …

    Raises:
        KeyError: a column has a type that is not known.
    """

    tensor: Column | None = None
    fixed_rows: int | None = None

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        # A frame without column names has whole numbers for labels, in the signature too.
        self._labels: tuple[str | int, ...] = tuple(spec.get("name", index) for index, spec in enumerate(specs))
        self._names = tuple(map(str, self._labels))
        required = [spec.get("required") is not False for spec in specs]
        types = [column_type(spec, needed) for spec, needed in zip(specs, required, strict=True)]
        self.columns = tuple(
            Column(name, type_name(spec), needed, kind.dtype)
            for name, spec, needed, kind in zip(self._names, specs, required, types, strict=True)
        )
        self._types = types
        self._converters = [kind.convert for kind in types]
        self._varying = [index for index, kind in enumerate(types) if not kind.dtype]
        self._depths = [0 if kind.dtype != "object" else _depth(spec) for kind, spec in zip(types, specs, strict=True)]
        self._width = len(specs)
        self._get = itemgetter(*self._names) if self._width > 1 else _get_one(self._names[0])
        self._layout = lru_cache(_LAYOUTS)(self._make_layout)

    def from_records(self, records: Sequence[Any], params: str) -> Rows:
        """Rows as objects of column name and value. A row may leave out optional columns: null, where others have them."""
        try:
            if {*map(len, records)} == {self._width}:
                columns = list(map(list, zip(*map(self._get, records), strict=True)))
                return self._rows(columns, len(records), params)
        except (KeyError, TypeError):
            pass  # some row is not an object of just these columns: which one is found below
        columns = []
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                raise InvalidInput(
                    f"row {row} is {short(record)}, expected an object of columns and values",
                    {"row": row, "expected": "object"},
                )
            self._check_names(record, row)
        given = [column.name for column in self.columns if any(column.name in record for record in records)]
        return self._named_rows({name: [record.get(name) for record in records] for name in given}, params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Values by column name: lists or arrays of one length, or one value each for a single row."""
        self._check_names(columns, None)
        lists = {name: values for name, values in columns.items() if isinstance(values, list | tuple | np.ndarray)}
        if not lists:
            lists = {name: [value] for name, value in columns.items()}
        scalars = [name for name in columns if name not in lists]
        if scalars:
            raise InvalidInput(
                f"column {short(scalars[0])} is one value and others are lists: give a list for each, or for none",
                {"column": scalars[0], "expected": "list"},
            )
        return self._named_rows(lists, params)

    def from_instances(self, instances: Sequence[Any], params: str) -> Rows:
        """Rows as objects; as lists with one value per column; or, for a single column, as its values."""
        if any(isinstance(instance, dict) for instance in instances) and not self._takes_objects:
            return self.from_records(instances, params)
        if self._width == 1 and not (self._depths == [0] and all(isinstance(item, list) for item in instances)):
            return self._rows([list(instances)], len(instances), params)
        for row, instance in enumerate(instances):
            if not isinstance(instance, list) or len(instance) != self._width:
                raise InvalidInput(
                    f"row {row} is {short(instance)}, expected an object of columns, or a list of {self._width} values "
                    f"in the order {listed(self._names)}",
                    {"row": row, "expected": list(self._names[:20])},
                )
        return self._rows(list(map(list, zip(*instances, strict=True))), len(instances), params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Columns by name, rows as in `from_instances`, or one value for a single column."""
        if isinstance(inputs, list):
            return self.from_instances(inputs, params)
        if not isinstance(inputs, dict):
            return self.from_instances([inputs], params)
        depths = dict(zip(self._names, self._depths, strict=True))
        # A list is one row's value where the type itself is a list, as MLflow reads it, and else the column.
        if any(depths.values()) and not any(_nesting(value) > depths.get(name, 0) for name, value in inputs.items()):
            return self.from_records([inputs], params)
        return self.from_columns(inputs, params)

    def _named_rows(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Rows from columns whose names are right."""
        ordered = [columns.get(name) for name in self._names]
        counts = {name: len(values) for name, values in columns.items()}
        if len({*counts.values()}) > 1:
            lengths = listed([f"{name}: {count}" for name, count in counts.items()])
            raise InvalidInput(f"the columns differ in length: {lengths}", {"expected": "columns of one length"})
        return self._rows(ordered, next(iter(counts.values()), 0), params)

    def _rows(self, columns: Sequence[Values | None], count: int, params: str) -> Rows:
        """Rows from the columns in order, None for those left out."""
        if not count:
            raise InvalidInput("the request has no rows", {"expected": "at least one row"})
        converted: list[Values] = []
        try:
            for convert, values in zip(self._converters, columns, strict=True):
                converted.append(convert(values))
        except Misfit as misfit:
            self._refuse(len(converted), misfit)
        if not self._varying:
            return Rows(self._layout(params), tuple(converted), count)
        ...

    def _refuse(self, index: int, misfit: Misfit) -> NoReturn: ...
