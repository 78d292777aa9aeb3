"""What tables of every format have in common: limits, names, and Arrow's columns as values.

Everything here and in the modules of the formats blocks, and is meant for a thread. They import pyarrow at the first
table, for most gateways never get one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput, TooLarge
from app.serving.rows import Array, Values
from app.serving.signatures.validation_errors import short

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Most columns of a table; most bytes, and most values, that a Parquet file may hold when decoded."""

    columns: int
    nbytes: int


def check_width(width: int, limits: TableLimits) -> None:
    """Raises `TooLarge` where a table has too many columns."""
    if width > limits.columns:
        raise TooLarge(f"{width} columns in one row; at most {limits.columns} are allowed")


def check_names(names: Sequence[str]) -> None:
    """Raises `InvalidInput` where two columns have one name."""
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise InvalidInput(f"{times} columns are named {short(name)}", {"column": name[:80]})


def brief(error: Exception) -> str:
    """The first line of what a library says about a body. It knows no paths: it was given bytes."""
    return str(error).partition("\n")[0][:_LONGEST]


def plain(column: Any) -> Values:
    """Numbers or truth values as an array, or as a list where some are missing."""
    return as_list(column) if column.null_count else as_numpy(column)


def as_numpy(column: Any) -> Array:
    """The column as an array."""
    array: Array = column.to_numpy(zero_copy_only=False)
    return array


def as_list(column: Any) -> list[Any]:
    """The column as Python's values, None for what is missing."""
    values: list[Any] = column.to_pylist()
    return values
