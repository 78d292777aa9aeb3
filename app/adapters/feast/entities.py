"""Entities of a request, checked against the keys of a feature source and turned into columns for Feast.

Feast itself turns any value into a string key, any text of digits into an integer, and answers a bad one with a
traceback; here a bad value is the caller's error, named by row and key.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from numbers import Integral, Real
from typing import Any

import numpy as np
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from app.errors import InvalidInput

SAMPLES: Mapping[ValueType, Any] = {
    ValueType.STRING: "",
    ValueType.INT32: 0,
    ValueType.INT64: 0,
    ValueType.FLOAT: 0.0,
    ValueType.DOUBLE: 0.0,
    ValueType.BOOL: False,
}
"""A value of each common type, for reading some row when it does not matter which."""


def entity_columns(
    entities: Sequence[Mapping[str, Any]], keys: Mapping[str, ValueType], nullable: Collection[str] = ()
) -> dict[str, list[Any]]:
    """One list of values per key.

    Args:
        keys: what every entity must give, no more and no less.
        nullable: those of `keys` that may be null.

    Raises:
        InvalidInput: names the row, the key and what is expected.
    """
    for row, entity in enumerate(entities):
        if entity.keys() != keys.keys():
            _raise_for_keys(row, entity, keys)
    return {
        key: [
            None if entity[key] is None and key in nullable else _value(row, key, entity[key], kind)
            for row, entity in enumerate(entities)
        ]
        for key, kind in keys.items()
    }


def _raise_for_keys(row: int, entity: Mapping[str, Any], keys: Mapping[str, ValueType]) -> None:
    expected = ", ".join(f"'{key}' ({_name(kind)})" for key, kind in keys.items()) or "no keys"
    missing = next((key for key in keys if key not in entity), None)
    key = missing if missing is not None else next(key for key in entity if key not in keys)
    fault = f"lacks the key '{key}'" if missing is not None else f"has an unknown key '{str(key)[:80]}'"
    raise InvalidInput(
        f"entity {row} {fault}: expected are {expected}", {"column": str(key)[:80], "row": row, "expected": expected}
    )


def _value(row: int, key: str, value: Any, kind: ValueType) -> Any:
    try:
        return _READERS.get(kind, _as_feast)(value, kind)
    except (TypeError, ValueError, OverflowError, AssertionError):
        given = "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        raise InvalidInput(
            f"entity {row}: the key '{key}' expects {_name(kind)}, got {given}",
            {"column": key, "row": row, "expected": _name(kind)},
        ) from None


def _name(kind: ValueType) -> str:
    return str(kind.name).lower()


def _string(value: Any, kind: ValueType) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate cannot be sent
    return value


def _integer(value: Any, kind: ValueType) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    number, limit = int(value), 1 << (31 if kind is ValueType.INT32 else 63)
    if not -limit <= number < limit:
        raise OverflowError
    return number


def _float(value: Any, kind: ValueType) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    number = float(value)
    if math.isnan(number):  # to Feast NaN is no value at all
        raise ValueError
    return number


def _bool(value: Any, kind: ValueType) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _timestamp(value: Any, kind: ValueType) -> datetime | int:
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value
    return _integer(value, kind)  # seconds since 1970


def _uuid(value: Any, kind: ValueType) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(_string(value, kind))


def _as_feast(value: Any, kind: ValueType) -> Any:
    """A type that is rare in entities: Feast's own conversion is tried, and refused where it finds no value."""
    (converted,) = python_values_to_proto_values([value], kind)
    if converted.WhichOneof("val") is None:
        raise ValueError
    return value


_READERS: Mapping[ValueType, Callable[[Any, ValueType], Any]] = {
    ValueType.STRING: _string,
    ValueType.INT32: _integer,
    ValueType.INT64: _integer,
    ValueType.FLOAT: _float,
    ValueType.DOUBLE: _float,
    ValueType.BOOL: _bool,
    ValueType.UNIX_TIMESTAMP: _timestamp,
    ValueType.UUID: _uuid,
    ValueType.TIME_UUID: _uuid,
}
