"""The inputs of a signature as callers see them, and the protocol by which the values of one are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Values
from app.serving.signatures.validation_errors import Misfit, short, unequal


@dataclass(frozen=True, slots=True)
class Column:
    """One input as callers see it.

    `name` is what they call it, `type` MLflow's name of its type (``double``, ``array(string)``, ``tensor(float32)``),
    `dtype` the numpy dtype that the model gets, empty where it depends on the values. `shape` is that of the whole
    input, -1 for a free dimension; the first are the rows.
    """

    name: str
    type: str
    required: bool
    dtype: str
    shape: tuple[int, ...] = (-1,)


class ColumnType(Protocol):
    """How one column is read.

    `dtype` is the numpy dtype that its values fit, empty where it depends on them; they are then given as an array.
    """

    @property
    def dtype(self) -> str: ...

    @property
    def expected(self) -> str: ...

    def convert(self, values: list[Any]) -> Values:
        """Every value of one column. Raises `Misfit`."""

    def cell(self, value: Any) -> Any:
        """One value. Raises `Misfit`."""


class Cells:
    """Reads a column cell by cell, and is what the faster types fall back to."""

    expected: str = ""

    def cell(self, value: Any) -> Any:
        raise Misfit(value, self.expected)

    def each(self, values: list[Any]) -> list[Any]:
        """Every value through `cell`. Raises `Misfit` with its row."""
        converted = []
        for row, value in enumerate(values):
            try:
                converted.append(self.cell(value.item() if isinstance(value, np.generic) else value))
            except Misfit as misfit:
                misfit.row = row
                raise
        return converted


def as_lists(columns: Mapping[str, Any]) -> dict[str, Values]:
    """Columns as lists or arrays of one length. Where all are single values, they are one row.

    Raises:
        InvalidInput: some columns are lists and others are not, or their lengths differ.
    """
    lists: dict[str, Values] = {
        name: list(values) if isinstance(values, tuple) else values
        for name, values in columns.items()
        if isinstance(values, list | tuple | np.ndarray)
    }
    if not lists:
        return {name: [value] for name, value in columns.items()}
    for name, values in columns.items():
        if name not in lists:
            raise InvalidInput(
                f"column {short(name)} is {short(values)} where others are lists: give a list for every column",
                {"column": name, "expected": "list"},
            )
    if len({*map(len, lists.values())}) > 1:
        raise unequal({name: len(values) for name, values in lists.items()})
    return lists


@lru_cache(maxsize=256)  # numpy composes a dtype's name anew each time
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The dtype as a `Layout` writes it: text of any length is one dtype."""
    return {"U": "str", "S": "bytes"}.get(dtype.kind, dtype.name)
