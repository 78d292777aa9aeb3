"""The scalar types of MLflow's columns: how the JSON values of one column become values that numpy holds exactly.

`app.serving.signature` compiles one of these per column. Each looks at the types of a whole column at once and only
where that does not settle it at every cell, so that the usual column costs no Python work per cell.
"""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import numpy as np

from app.serving.tables import Array, Values, as_array

_NULL = type(None)
_INTEGER_BITS = {"integer": 32, "long": 64}
_FLOAT32_LIMIT = (2 - 2**-24) * 2.0**127
"""The smallest double that rounds to infinity as a 32-bit float."""
_NOT_A_TIME = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS = re.compile(r"[.,]\d{6}(\d{1,3})")


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


class Misfit(Exception):
    """A value that does not fit its column. Never leaves the domain: it becomes an `InvalidInput`.

    `row` is its index in the column, `path` where inside a nested value it is, such as ``.sizes[2]``.
    """

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(value, expected)
        self.value = value
        self.expected = expected
        self.row = 0
        self.path = ""


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


class Float(Cells):
    """``float`` and ``double``. Null is NaN, required or not, as it is in a DataFrame."""

    def __init__(self, name: str) -> None:
        self.dtype = "float32" if name == "float" else "float64"
        self.expected = f"a number ({name})"
        self._limit = _FLOAT32_LIMIT if name == "float" else math.inf

    def convert(self, values: list[Any]) -> Values:
        kinds = {*map(type, values)}
        if kinds == {int} or kinds == {int, float}:
            try:
                values = list(map(float, values))
            except OverflowError:
                return self.each(values)
        elif kinds != {float}:
            return self.each(values)
        if self._limit == math.inf or (-self._limit < min(values) and max(values) < self._limit):
            return values
        return self.each(values)

    def cell(self, value: Any) -> float:
        if value is None:
            return math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                raise Misfit(value, self.expected) from None
            if abs(number) < self._limit or not math.isfinite(number):
                return number
        raise Misfit(value, self.expected)


class Integer(Cells):
    """``integer`` and ``long``. Null is refused even where the column may be left out: numpy has no such integer."""

    def __init__(self, name: str) -> None:
        bits = _INTEGER_BITS[name]
        self.dtype = f"int{bits}"
        self.expected = f"a whole number of {bits} bits ({name})"
        self._low, self._high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert(self, values: list[Any]) -> Values:
        if {*map(type, values)} == {int} and self._low <= min(values) and max(values) <= self._high:
            return values
        return self.each(values)

    def cell(self, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and self._low <= value <= self._high:
            return value
        raise Misfit(value, self.expected)


class Text(Cells):
    """``string``. Null in an optional column is None, as MLflow keeps it."""

    dtype = "object"
    expected = "a string"

    def __init__(self, required: bool) -> None:
        self._kinds = {str} if required else {str, _NULL}

    def convert(self, values: list[Any]) -> Values:
        return values if {*map(type, values)} <= self._kinds else self.each(values)

    def cell(self, value: Any) -> str | None:
        if type(value) in self._kinds:
            return value  # type: ignore[no-any-return]  # the line above has told
        raise Misfit(value, self.expected)


class Boolean(Cells):
    """``boolean``. A null in an optional column makes it an object column that holds None.

    So it is in a DataFrame, and MLflow's schema enforcement keeps it so, lest the null become False. A column
    without nulls is ``bool`` all the same: the model must see what it would see if the request came alone.
    """

    expected = "true or false (boolean)"

    def __init__(self, required: bool) -> None:
        self.dtype = "bool" if required else ""
        self._kinds = {bool} if required else {bool, _NULL}

    def convert(self, values: list[Any]) -> Values:
        kinds = {*map(type, values)}
        if not kinds <= self._kinds:
            values = self.each(values)
            kinds = {*map(type, values)}
        if self.dtype:
            return values
        return as_array(values, np.dtype(bool if kinds == {bool} else object))

    def cell(self, value: Any) -> bool | None:
        if type(value) in self._kinds:
            return value  # type: ignore[no-any-return]  # the line above has told
        raise Misfit(value, self.expected)


class Binary(Cells):
    """``binary``: base64 in JSON, where white space is ignored, or bytes. Null in an optional column is None."""

    dtype = "object"
    expected = "base64 (binary)"
    convert = Cells.each

    def __init__(self, required: bool) -> None:
        self._required = required

    def cell(self, value: Any) -> bytes | None:
        if isinstance(value, bytes):
            return value
        if value is None and not self._required:
            return None
        if isinstance(value, str):
            try:
                # MLflow's own encoder breaks lines, so they are no error.
                return base64.b64decode("".join(value.split()), validate=True)
            except ValueError:
                pass
        raise Misfit(value, self.expected)


class Datetime(Cells):
    """``datetime``: ISO 8601, as nanoseconds since the epoch; a time zone is converted to UTC and dropped.

    Null in an optional column is NaT. Numbers are refused: MLflow's scoring server would take them for nanoseconds,
    which hardly any caller means, and its pyfunc refuses them too.
    """

    dtype = "datetime64[ns]"
    expected = "an ISO 8601 date and time between 1677-09-22 and 2262-04-11 (datetime)"
    convert = Cells.each

    def __init__(self, required: bool) -> None:
        self._required = required

    def cell(self, value: Any) -> int:
        if value is None and not self._required:
            return _NOT_A_TIME
        try:
            if isinstance(value, str):
                nanoseconds = _since_epoch(datetime.fromisoformat(value))
                finer = _NANOSECONDS.search(value)  # Python's datetime stops at microseconds
                nanoseconds += int(finer[1].ljust(3, "0")) if finer else 0
            elif isinstance(value, datetime):
                nanoseconds = _since_epoch(value)
            else:
                raise Misfit(value, self.expected)
        except (ValueError, OverflowError):
            raise Misfit(value, self.expected) from None
        if not -(2**63) < nanoseconds < 2**63:
            raise Misfit(value, self.expected)
        return nanoseconds


def _since_epoch(moment: datetime) -> int:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    passed = aware - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 10**9 + passed.microseconds * 1000


class Untyped(Cells):
    """Values of any type, with the dtype that a DataFrame of them would have: ``any``, and models without a signature.

    The dtype is that of the request's own values, so that a batch gives no model a dtype that its request alone would
    not.
    """

    dtype = ""
    expected = "a value"
    _numbers: ClassVar[set[type]] = {int, float, _NULL}

    def convert(self, values: list[Any]) -> Array:
        kinds = {*map(type, values)}
        if kinds == {bool}:
            return np.array(values, dtype=bool)
        if kinds <= self._numbers and kinds != {_NULL}:
            for dtype in ("int64", "uint64") if kinds == {int} else ("float64",):
                try:
                    return np.array(values, dtype=dtype)
                except OverflowError:
                    continue
        return as_array(values, np.dtype(object))

    def cell(self, value: Any) -> Any:
        return value


def scalar_type(name: str, required: bool) -> ColumnType:
    """The reader of an MLflow ``DataType``. Raises `KeyError` where there is no such type."""
    if name in ("float", "double"):
        return Float(name)
    if name in _INTEGER_BITS:
        return Integer(name)
    return {"boolean": Boolean, "string": Text, "binary": Binary, "datetime": Datetime}[name](required)
