"""Validate the entities of a request against the keys of a feature source, and turn them into columns for Feast.

Feast turns any value into a string key and any digits into an integer, and fails with a traceback on a bad value. Here
a bad value is the caller's error, with its row and key.
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
"""A value of each common type, to read any row with."""


def entity_columns(
    entities: Sequence[Mapping[str, Any]], keys: Mapping[str, ValueType], nullable: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Return one list of values per key.

    Args:
        keys: the keys that every entity must have, no more and no fewer.
        nullable: those of `keys` that may be null.

    Raises:
        InvalidInput: names the row, the key and the expected type.
    """
    for row, entity in enumerate(entities):
        if entity.keys() != keys.keys():
            raise _wrong_keys(row, entity, keys)
    return {
        key: [
            None if entity[key] is None and key in nullable else _value(row, key, entity[key], kind)
            for row, entity in enumerate(entities)
        ]
        for key, kind in keys.items()
    }


def _wrong_keys(row: int, entity: Mapping[str, Any], keys: Mapping[str, ValueType]) -> InvalidInput:
    expected = ", ".join(f"'{key}' ({_name(kind)})" for key, kind in keys.items()) or "no keys"
    key = next((key for key in keys if key not in entity), None)
    fault = f"lacks the key '{key}'"
    if key is None:
        key = str(next(key for key in entity if key not in keys))[:80]
        fault = f"has an unknown key '{key}'"
    details = {"column": key[:80], "row": row, "expected": expected}
    return InvalidInput(f"entity {row} {fault}: expected are {expected}", details)


def _value(row: int, key: str, value: Any, kind: ValueType) -> Any:
    try:
        return _CONVERTERS.get(kind, _by_feast)(value, kind)
    except (TypeError, ValueError, OverflowError, AssertionError):
        given = "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        raise InvalidInput(
            f"entity {row}: the key '{key}' expects {_name(kind)}, got {given}",
            {"column": key, "row": row, "expected": _name(kind)},
        ) from None


def _name(kind: ValueType) -> str:
    return str(kind.name).lower()


def _require(value: Any, *types: type) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TypeError


def _string(value: Any, kind: ValueType) -> str:
    _require(value, str)
    value.encode()  # a lone surrogate cannot be sent
    return str(value)


def _integer(value: Any, kind: ValueType) -> int:
    _require(value, Integral)
    limit = 1 << (31 if kind is ValueType.INT32 else 63)
    if not -limit <= value < limit:
        raise OverflowError
    return int(value)


def _float(value: Any, kind: ValueType) -> float:
    _require(value, Real)
    if math.isnan(value):  # Feast takes NaN for a missing value
        raise ValueError
    return float(value)


def _bool(value: Any, kind: ValueType) -> bool:
    _require(value, bool, np.bool_)
    return bool(value)


def _timestamp(value: Any, kind: ValueType) -> datetime | int:
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return value if isinstance(value, datetime) else _integer(value, kind)  # seconds since 1970


def _uuid(value: Any, kind: ValueType) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(_string(value, kind))


def _by_feast(value: Any, kind: ValueType) -> Any:
    """Accept a value of a rare type if Feast can convert it."""
    (converted,) = python_values_to_proto_values([value], kind)
    if converted.WhichOneof("val") is None:
        raise ValueError
    return value


_CONVERTERS: Mapping[ValueType, Callable[[Any, ValueType], Any]] = {
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
