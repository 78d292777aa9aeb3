"""The scalar types of MLflow's columns: how JSON values become values that numpy holds exactly.

Each looks at the types of a whole column at once and only where that does not settle it at every cell, so that the
usual column costs no Python work per cell.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from app.serving.rows import Array, Values, as_array
from app.serving.signatures.columns import Cells, ColumnType
from app.serving.signatures.validation_errors import Misfit

_NULL = type(None)
_FLOATS = {"float": "float32", "double": "float64"}
_INTEGERS = {"integer": "int32", "long": "int64"}
_NOT_A_TIME = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS = re.compile(r"[.,]\d{6}(\d{1,3})")


class Float(Cells):
    """``float``, ``double`` and tensors of them. Null is NaN, required or not, as it is in a DataFrame.

    Finite numbers are taken where they are smaller than `limit`, which is infinite for a double.
    """

    _kinds: ClassVar[set[type]] = {float, int, _NULL}

    def __init__(self, name: str, dtype: str) -> None:
        self.dtype = dtype
        self.expected = f"a number ({name})"
        # What is beyond half a step over the largest number would round to infinity; for a double nothing is.
        wide = np.finfo(dtype)
        self.limit = (2 - 2.0 ** -(wide.nmant + 1)) * 2.0 ** (wide.maxexp - 1)

    def convert(self, values: list[Any]) -> Values:
        kinds = {*map(type, values)}
        if kinds != {float}:
            if not kinds <= self._kinds:
                return self.each(values)
            try:
                values = [math.nan if value is None else float(value) for value in values]
            except OverflowError:
                return self.each(values)
        if self.limit == math.inf or not values or (-self.limit < min(values) and max(values) < self.limit):
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
            if abs(number) < self.limit or not math.isfinite(number):
                return number
        raise Misfit(value, self.expected)


class Integer(Cells):
    """``integer``, ``long`` and tensors of them. Whole floats such as 3.0 are taken.

    Null is refused even where the column may be left out: numpy has no such integer, and MLflow no such column.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.dtype = dtype
        bounds = np.iinfo(dtype)
        self._low, self._high = int(bounds.min), int(bounds.max)
        self.expected = f"a whole number from {self._low} to {self._high} ({name})"

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
    if name in _FLOATS:
        return Float(name, _FLOATS[name])
    if name in _INTEGERS:
        return Integer(name, _INTEGERS[name])
    others: dict[str, Callable[[bool], ColumnType]] = {
        "boolean": Boolean,
        "string": Text,
        "binary": Binary,
        "datetime": Datetime,
    }
    return others[name](required)
