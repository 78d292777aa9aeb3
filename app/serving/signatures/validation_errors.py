"""Values that do not fit a signature, and the short error messages about them."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput

MOST_NAMES = 20
"""Limit on the names in one message or its details."""

_MAX_LENGTH = 60
_MAX_QUOTED = 80
"""Characters of a caller's name in the details of an error."""
_MAX_COMPARED = 200
_JSON = {None: "null", True: "true", False: "false"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _MAX_LENGTH - 2


class Misfit(Exception):
    """A value that does not fit. It stays inside the domain: `refusal` turns it into an `InvalidInput`.

    `row` is the index in the column, `path` the place inside a nested value, such as ``.sizes[2]``.
    """

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(value, expected)
        self.value = value
        self.expected = expected
        self.row = 0
        self.path = ""

    def locate(self, index: int, shape: Sequence[int]) -> None:
        """Set the place to this index, in row-major order, of a tensor."""
        self.row, *inner = map(int, np.unravel_index(index, tuple(shape)))
        self.path = "".join(f"[{position}]" for position in inner)


def refusal(name: str, misfit: Misfit) -> InvalidInput:
    """Make the caller's error from a misfit in the column or tensor `name`, empty for the only unnamed one."""
    where = f"column {short(name)}, row {misfit.row}" if name else f"row {misfit.row}"
    details: dict[str, Any] = {"row": misfit.row, "expected": misfit.expected}
    if name:
        details["column"] = name
    if misfit.path:
        where += f" at {misfit.path}"
        details["path"] = misfit.path
    return InvalidInput(f"{where} is {short(misfit.value)}, expected {misfit.expected}", details)


def check_records(records: Sequence[Any], names: Sequence[str], required: Collection[str]) -> None:
    """Check that every row is an object with all `required` names and no others than `names`.

    Raises:
        InvalidInput: names the first row that is not.
    """
    allowed, needed = set(names), set(required)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise InvalidInput(
                f"row {row} is {short(record)}, expected an object with a value per column",
                {"row": row, "expected": "object"},
            )
        if not needed <= record.keys() <= allowed:
            raise wrong_names(record, names, needed, row)


def wrong_names(
    given: Collection[str], names: Sequence[str], required: Collection[str], row: int | None = None
) -> InvalidInput:
    """Make the error for an input, or one of its rows, with missing or unknown names."""
    missing = [name for name in names if name in required and name not in given]
    allowed = set(names)
    extra = [name for name in given if name not in allowed]
    subject = "the input" if row is None else f"row {row}"
    problems = []
    if missing:
        problems.append(f"{subject} lacks {listed(missing)}")
    if extra:
        hint = resembling(extra[0], names)
        problems.append(f"{subject} has {listed(extra)}, which is not among the columns {listed(names)}{hint}")
    details: dict[str, Any] = {
        "column": missing[0] if missing else extra[0][:_MAX_QUOTED],
        "missing": missing[:MOST_NAMES],
        "extra": [name[:_MAX_QUOTED] for name in extra[:MOST_NAMES]],
        "expected": list(names[:MOST_NAMES]),
    }
    return InvalidInput("; ".join(problems), details if row is None else {**details, "row": row})


def no_rows() -> InvalidInput:
    """Make the error for an input without rows, on which the model fails."""
    return InvalidInput(
        "the request has no rows, and the model cannot predict none; send at least one row",
        {"expected": "at least one row"},
    )


def no_names(names: Sequence[str]) -> InvalidInput:
    """Make the error for a list without rows, which has none of the columns that the model needs."""
    return InvalidInput(
        f"the request has no rows; send at least one, with the columns {listed(names)}",
        {"expected": list(names[:MOST_NAMES])},
    )


def no_dimensions(name: str) -> InvalidInput:
    """Make the error for a tensor without dimensions."""
    return InvalidInput(
        f"tensor {short(name)} has no dimensions; its first dimension must be the rows",
        {"column": name, "expected": "a shape with at least one dimension"},
    )


def wrong_shape(name: str, shape: Sequence[int], expected: Sequence[int]) -> InvalidInput:
    """Make the error for a tensor of another shape; -1 stands for any length."""
    subject = f"tensor {short(name)}" if name else "the input"
    return InvalidInput(
        f"{subject} has the shape {list(shape)}, expected {list(expected)}, where -1 is any length",
        {"shape": list(shape), "expected": list(expected)} | ({"column": name} if name else {}),
    )


def unequal(lengths: Mapping[str, int]) -> InvalidInput:
    """Make the error for columns of different lengths."""
    shown = listed([f"{name}: {length}" for name, length in lengths.items()])
    return InvalidInput(
        f"the columns differ in length: {shown}; send one value per row in each",
        {"expected": "columns of one length"},
    )


def short(value: Any) -> str:
    """Format a value for a message, in at most 60 characters."""
    if value is None or isinstance(value, bool):
        return _JSON[value]
    text = _REPR.repr(value)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Format names for a message: all, or the first 20 and the number of the others."""
    shown = ", ".join(map(short, names[:MOST_NAMES]))
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def resembling(name: str, names: Collection[str]) -> str:
    """Suggest the name that was probably meant; empty if none is close."""
    # Both sizes are the caller's: comparing is quadratic in the length and linear in the number of names.
    if len(name) > _MAX_LENGTH or len(names) > _MAX_COMPARED:
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {short(close[0])}?)" if close else ""
