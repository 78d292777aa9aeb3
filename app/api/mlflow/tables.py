"""Shared parts of the table formats: limits, names, and conversion of Arrow columns.

The functions of this package's formats block, so callers run them in a thread. They import pyarrow when the first table
arrives: most gateways never get one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput, TooLarge
from app.serving.rows import RowLabels, Values
from app.serving.signatures.validation_errors import short

Table = tuple[dict[str, Values], RowLabels | None]
"""Values by column, and the labels of the rows; None for 0, 1, and so on."""

_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Limits on the columns of a table, and on the rows, and the bytes and number of values, of a Parquet file."""

    columns: int
    nbytes: int
    rows: int


ParquetReader = Callable[[bytes, Collection[str], TableLimits], Awaitable[Table]]
"""Reads a Parquet file as `app.api.mlflow.parquet.parquet_table` does, without blocking the event loop."""


def check_width(width: int, limits: TableLimits) -> None:
    """Raise `TooLarge` if a table has too many columns."""
    if width > limits.columns:
        raise TooLarge(f"{width} columns in one row; at most {limits.columns} are allowed")


def check_names(names: Sequence[str]) -> None:
    """Raise `InvalidInput` if two columns have one name."""
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise InvalidInput(f"{times} columns are named {short(name)}; give each its own name", {"column": name[:80]})


def brief(error: Exception) -> str:
    """Return the first line of a library's message. It contains no paths: the library gets bytes."""
    return str(error).partition("\n")[0][:_MAX_REASON]


def values_of(column: Any) -> Values:
    """Convert an Arrow column of numbers or booleans to an array, or to a list if values are missing."""
    values: Values = column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False)
    return values
