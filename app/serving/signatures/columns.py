"""Inputs of a signature as callers see them, and the base class of the types that read their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Values
from app.serving.signatures.validation_errors import Misfit, check_records, short, unequal


@dataclass(frozen=True, slots=True)
class Column:
    """One input as callers see it.

    `type` is MLflow's name of the type (``double``, ``array(string)``, ``tensor(float32)``). `dtype` is the numpy dtype
    that the model gets, empty where it depends on the values. `shape` is the shape of the whole input: its first
    dimension is the rows, -1 is any length.
    """

    name: str
    type: str
    required: bool
    dtype: str
    shape: tuple[int, ...] = (-1,)


class ColumnType:
    """Validation of one column's values.

    `dtype` is the numpy dtype that the converted values fit. It is empty where it depends on the values; `convert` then
    returns an array. `expected` describes a valid value in error messages.
    """

    dtype: str = "object"
    expected: str = ""

    def cell(self, value: Any) -> Any:
        """Convert one value. Raises `Misfit`."""
        raise Misfit(value, self.expected)

    def convert(self, values: list[Any]) -> Values:
        """Convert all values of a column. Raises `Misfit` with the row.

        Subclasses first look at the types of the whole column, so that a column of plain values costs no Python work
        per value, and call this method where that is not enough.
        """
        converted = []
        for row, value in enumerate(values):
            try:
                converted.append(self.cell(value.item() if isinstance(value, np.generic) else value))
            except Misfit as misfit:
                misfit.row = row
                raise
        return converted


def as_lists(columns: Mapping[Any, Any], *, equal: bool = True) -> dict[Any, Values]:
    """Make lists or arrays, of one length unless not `equal`. If all columns are single values, they are one row.

    Raises:
        InvalidInput: some columns are lists and others are not, or their lengths differ.
    """
    lists: dict[Any, Values] = {
        name: list(values) if isinstance(values, tuple) else values
        for name, values in columns.items()
        if isinstance(values, list | tuple | np.ndarray)
    }
    if not lists:
        return {name: [value] for name, value in columns.items()}
    if len(lists) < len(columns):
        name, value = next((name, value) for name, value in columns.items() if name not in lists)
        raise InvalidInput(
            f"column {short(name)} is {short(value)} where others are lists; send a list for every column",
            {"column": name, "expected": "list"},
        )
    if equal and len({*map(len, lists.values())}) > 1:
        raise unequal({name: len(values) for name, values in lists.items()})
    return lists


def by_name(records: list[Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Turn rows as objects into columns. All rows must have these names, or those of the first row if empty.

    Raises:
        InvalidInput: a row is not an object, or has other names.
    """
    if not names and records and isinstance(records[0], dict):
        names = tuple(records[0])
    check_records(records, names, names)
    return {name: [record[name] for record in records] for name in names}


@lru_cache(maxsize=256)  # numpy builds a dtype's name on each access
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Name a dtype as a `Layout` does: text and bytes of any length have one name each."""
    return {"U": "str", "S": "bytes"}.get(dtype.kind, dtype.name)
