"""JSON of requests, and results read from JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """Encode a value; numpy values become numbers and lists, dates ISO 8601, bytes base64.

    Raises:
        ValueError: the value contains NaN or an infinity.
        TypeError: the value contains an object that JSON has no form for.
    """
    return json.dumps(value, default=_plain, allow_nan=False).encode()


def from_json(kind: Callable[..., T], body: Any) -> T:
    """Build a dataclass from a JSON object.

    A field is read from the key of its name, or of its metadata ``key``. Unknown keys are ignored, so that a client
    understands a newer gateway.

    Raises:
        KeyError: the object lacks a field that has no default.
        TypeError, AttributeError: a value is not of the JSON type that its field needs.
    """
    return kind(**{name: _read(hint, body[key]) for name, key, hint, needed in _fields(kind) if needed or key in body})


@cache
def _fields(kind: Any) -> list[tuple[str, str, Any, bool]]:
    """Name, JSON key, type hint and necessity of each field."""
    hints = get_type_hints(kind)
    return [
        (
            field.name,
            field.metadata.get("key", field.name),
            hints[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(kind)
    ]


def _read(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:  # X | None
        return None if value is None else _read(arguments[0], value)
    if origin is tuple:
        return tuple(_read(arguments[0], item) for item in value)
    if origin is Mapping:
        return {key: _read(arguments[1], item) for key, item in value.items()}
    return from_json(hint, value) if isinstance(hint, type) and is_dataclass(hint) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent as JSON")
