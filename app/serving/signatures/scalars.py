"""MLflow's scalar column types: conversion of JSON values to values that numpy holds exactly."""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from app.serving.rows import Array, Values, as_array
from app.serving.signatures.columns import ColumnType
from app.serving.signatures.validation_errors import Misfit

_NULL = type(None)
_FLOATS = {float, int, _NULL}
_NOT_A_TIME = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECONDS = re.compile(r"[.,]\d{6}(\d{1,3})")


class FloatType(ColumnType):
    """``float``, ``double`` and tensors of floats. Null is NaN, required or not, as in a DataFrame.

    `limit` is the absolute value from which numbers would round to infinity; it is infinite for a double.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.dtype = dtype
        self.expected = f"a number ({name})"
        wide = np.finfo(dtype)  # numbers round to infinity from half a step over the largest one
        self.limit = (2 - 2.0 ** -(wide.nmant + 1)) * 2.0 ** (wide.maxexp - 1)

    def convert(self, values: list[Any]) -> Values:
        kinds = {*map(type, values)}
        if kinds != {float}:
            if not kinds <= _FLOATS:
                return super().convert(values)
            try:
                values = [math.nan if value is None else float(value) for value in values]
            except OverflowError:
                return super().convert(values)
        if self.limit == math.inf or not values or (-self.limit < min(values) and max(values) < self.limit):
            return values
        return super().convert(values)

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


class IntegerType(ColumnType):
    """``integer``, ``long`` and tensors of integers. Whole floats such as 3.0 are accepted.

    Null is refused even in an optional column: numpy has no such integer, and MLflow no such column.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.dtype = dtype
        bounds = np.iinfo(dtype)
        self._low, self._high = int(bounds.min), int(bounds.max)
        self.expected = f"a whole number from {self._low} to {self._high} ({name})"

    def convert(self, values: list[Any]) -> Values:
        if {*map(type, values)} == {int} and self._low <= min(values) and max(values) <= self._high:
            return values
        return super().convert(values)

    def cell(self, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and self._low <= value <= self._high:
            return value
        raise Misfit(value, self.expected)


class StringType(ColumnType):
    """``string``. Null in an optional column is None, as in MLflow."""

    expected = "a string"
    _kind: ClassVar[type] = str

    def __init__(self, required: bool = True) -> None:
        self._kinds = {self._kind} if required else {self._kind, _NULL}

    def convert(self, values: list[Any]) -> Values:
        return values if {*map(type, values)} <= self._kinds else super().convert(values)

    def cell(self, value: Any) -> Any:
        if type(value) in self._kinds:
            return value
        raise Misfit(value, self.expected)


class BooleanType(StringType):
    """``boolean``. A null in an optional column makes it an object column that holds None, as in a DataFrame.

    An optional column without nulls is ``bool``: the model must get what it would get if the request came alone.
    """

    expected = "true or false (boolean)"
    _kind = bool

    def __init__(self, required: bool = True) -> None:
        super().__init__(required)
        self.dtype = "bool" if required else ""

    def convert(self, values: list[Any]) -> Values:
        converted = super().convert(values)
        if self.dtype:
            return converted
        return as_array(converted, np.dtype(bool if {*map(type, converted)} <= {bool} else object))


class BinaryType(ColumnType):
    """``binary``: base64 in JSON, where white space is ignored, or bytes. Null in an optional column is None."""

    expected = "base64 (binary)"

    def __init__(self, required: bool = True) -> None:
        self._required = required

    def cell(self, value: Any) -> bytes | None:
        if isinstance(value, bytes):
            return value
        if value is None and not self._required:
            return None
        if isinstance(value, str):
            try:
                return base64.b64decode("".join(value.split()), validate=True)  # MLflow's encoder breaks lines
            except ValueError:
                pass
        raise Misfit(value, self.expected)


class DatetimeType(ColumnType):
    """``datetime``: ISO 8601, as nanoseconds since the epoch; a time zone is converted to UTC and dropped.

    Null in an optional column is NaT. Numbers are refused, as in pyfunc: MLflow's scoring server would read them as
    nanoseconds, which hardly any caller means.
    """

    dtype = "datetime64[ns]"
    expected = "an ISO 8601 date and time between 1677-09-22 and 2262-04-11 (datetime)"

    def __init__(self, required: bool = True) -> None:
        self._required = required

    def cell(self, value: Any) -> int:
        if value is None and not self._required:
            return _NOT_A_TIME
        nanoseconds = _NOT_A_TIME
        try:
            if isinstance(value, str):
                nanoseconds = _since_epoch(datetime.fromisoformat(value))
                finer = _NANOSECONDS.search(value)  # Python's datetime stops at microseconds
                nanoseconds += int(finer[1].ljust(3, "0")) if finer else 0
            elif isinstance(value, datetime):
                nanoseconds = _since_epoch(value)
        except (ValueError, OverflowError):
            raise Misfit(value, self.expected) from None
        if not -(2**63) < nanoseconds < 2**63:
            raise Misfit(value, self.expected)
        return nanoseconds


def _since_epoch(moment: datetime) -> int:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    passed = aware - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 10**9 + passed.microseconds * 1000


class AnyType(ColumnType):
    """``any``: values of every type, as `infer_array` reads them."""

    dtype = ""
    expected = "a value"

    def convert(self, values: list[Any]) -> Array:
        return infer_column(values)

    def cell(self, value: Any) -> Any:
        return value


def infer_array(values: list[Any]) -> Array:
    """Make an array with the dtype that a DataFrame of these values would have.

    The dtype depends on one request's values alone: a model gets the same dtype in a batch as without it.
    """
    kinds = {*map(type, values)}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds <= _FLOATS and kinds != {_NULL} and _fit_64_bits(values, kinds):
        for dtype in ("int64", "uint64") if kinds == {int} else ("float64",):
            try:
                return np.array(values, dtype=dtype)
            except OverflowError:
                continue
    return as_array(values, np.dtype(object))


def infer_column(values: list[Any]) -> Array:
    """Make an array as `infer_array`; without values it holds objects, as in a DataFrame."""
    return infer_array(values) if values else np.empty(0, dtype=object)


def _fit_64_bits(values: list[Any], kinds: set[type]) -> bool:
    """Whether the integers beside floats and nulls fit 64 bits. Those alone are tried."""
    return (
        int not in kinds or len(kinds) == 1 or all(-(2**63) <= value < 2**64 for value in values if type(value) is int)
    )


NUMBERS = {"float": "float32", "double": "float64", "integer": "int32", "long": "int64"}
"""Numpy's names of MLflow's number types."""
_BY_NAME = {"boolean": BooleanType, "string": StringType, "binary": BinaryType, "datetime": DatetimeType}
_BY_KIND = {"b": BooleanType, "U": StringType, "S": BinaryType, "M": DatetimeType, "O": AnyType}


def scalar_type(name: str, required: bool) -> ColumnType:
    """Compile an MLflow ``DataType``. Raises `KeyError` if the name is unknown."""
    return element_type(np.dtype(NUMBERS[name]), name) if name in NUMBERS else _BY_NAME[name](required)


def element_type(dtype: np.dtype[Any], name: str) -> ColumnType:
    """Compile the type of a tensor's elements, named `name` in messages. Raises `KeyError` if the dtype is unknown."""
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return FloatType(name, dtype.name)
    return IntegerType(name, dtype.name) if dtype.kind in "iu" else _BY_KIND[dtype.kind]()
