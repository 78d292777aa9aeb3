"""Values that do not fit a signature, and how they appear in messages: short, whatever the caller sent."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app.errors import InvalidInput

MOST_NAMES = 20
"""How many columns a message or its details name."""

_LONGEST = 60
_COMPARED = 200
_JSON = {None: "null", True: "true", False: "false"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _LONGEST - 2


class Misfit(Exception):
    """A value that does not fit. Never leaves the domain: `refusal` makes an `InvalidInput` of it.

    `row` is its index in the column, `path` where inside a nested value it is, such as ``.sizes[2]``.
    """

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(value, expected)
        self.value = value
        self.expected = expected
        self.row = 0
        self.path = ""


def refusal(name: str, misfit: Misfit) -> InvalidInput:
    """The error for the caller: what is wrong in the column or tensor `name`, empty where it has none."""
    where = f"column {short(name)}, row {misfit.row}" if name else f"row {misfit.row}"
    details: dict[str, Any] = {"row": misfit.row, "expected": misfit.expected}
    if name:
        details["column"] = name
    if misfit.path:
        where += f" at {misfit.path}"
        details["path"] = misfit.path
    return InvalidInput(f"{where} is {short(misfit.value)}, expected {misfit.expected}", details)


def wrong_names(
    given: Collection[str], names: Sequence[str], required: Collection[str], row: int | None = None
) -> InvalidInput:
    """The error for an input, or one row of it, that lacks `required` names or has others than `names`."""
    missing = [name for name in names if name in required and name not in given]
    allowed = set(names)
    extra = [name for name in given if name not in allowed]
    whose = "the input" if row is None else f"row {row}"
    problems = []
    if missing:
        problems.append(f"{whose} lacks {listed(missing)}")
    if extra:
        hint = resembling(extra[0], names)
        problems.append(f"{whose} has {listed(extra)}, which is not among the columns {listed(names)}{hint}")
    details: dict[str, Any] = {
        "column": (missing or extra)[0],
        "missing": missing[:MOST_NAMES],
        "extra": extra[:MOST_NAMES],
        "expected": list(names[:MOST_NAMES]),
    }
    return InvalidInput("; ".join(problems), details if row is None else {**details, "row": row})


def not_an_object(value: Any, row: int) -> InvalidInput:
    """The error for a row that is no object of names and values."""
    return InvalidInput(
        f"row {row} is {short(value)}, expected an object with a value per column", {"row": row, "expected": "object"}
    )


def no_rows() -> InvalidInput:
    """The error for an input without rows, or with none of the columns, all of them optional."""
    return InvalidInput(
        "the request has no rows, or none of the columns", {"expected": "at least one row of at least one column"}
    )


def without_rows(name: str) -> InvalidInput:
    """The error for a tensor without any dimension."""
    return InvalidInput(
        f"tensor {short(name)} is a single value: its first dimension must be the rows",
        {"column": name, "expected": "a shape with at least one dimension"},
    )


def wrong_shape(name: str, shape: Sequence[int], expected: Sequence[int]) -> InvalidInput:
    """The error for a tensor of another shape; -1 stands for any length."""
    whose = f"tensor {short(name)}" if name else "the input"
    return InvalidInput(
        f"{whose} has the shape {list(shape)}, expected {list(expected)}, -1 for any length",
        {"shape": list(shape), "expected": list(expected)} | ({"column": name} if name else {}),
    )


def unequal(lengths: Mapping[str, int]) -> InvalidInput:
    """The error for columns of different lengths."""
    shown = listed([f"{name}: {length}" for name, length in lengths.items()])
    return InvalidInput(f"the columns differ in length: {shown}", {"expected": "columns of one length"})


def short(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return _JSON[value]
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Names for a message: all, or the first 20 and how many more."""
    shown = ", ".join(map(short, names[:MOST_NAMES]))
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def resembling(name: str, names: Collection[str]) -> str:
    """A hint at the name that was probably meant, or nothing."""
    # Comparing is quadratic in the length and linear in the number: bounded, for both are the caller's.
    if len(name) > _LONGEST or len(names) > _COMPARED:
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {short(close[0])}?)" if close else ""
