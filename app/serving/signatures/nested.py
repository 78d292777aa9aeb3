"""MLflow's nested column types: arrays, objects and maps inside the cells of an object column.

The rules for nulls follow ``_enforce_type`` in ``mlflow.models.utils``, which pyfunc applies to every cell again. That
function writes into the objects that it gets, so every cell is copied here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.serving.signatures.columns import ColumnType
from app.serving.signatures.scalars import AnyType, scalar_type
from app.serving.signatures.validation_errors import Misfit, short

NESTED_NAMES = frozenset({"array", "object", "map", "sparkml_vector"})
"""MLflow's names of the types whose values hold others."""
_NARROW = {"int32", "float32", "datetime64[ns]"}
"""Types that pyfunc accepts inside nested values only as numpy's own: it does not narrow Python's numbers, and turns a
list of datetimes into integers."""


class ArrayType(ColumnType):
    """``array``: a list whose items have one type."""

    def __init__(self, items: ColumnType, expected: str, required: bool) -> None:
        self.expected = expected
        self._items = items
        self._scalar = not isinstance(items, (*NESTED, AnyType))
        self._nullable = not required or isinstance(items, AnyType)

    def cell(self, value: Any) -> Any:
        if value is None and self._nullable:
            return None
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            raise Misfit(value, self.expected)
        if not self._scalar:
            return [_at(f"[{index}]", self._items, item) for index, item in enumerate(value)]
        try:
            items = self._items.convert(value) if value else []
        except Misfit as misfit:
            misfit.path = f"[{misfit.row}]"
            raise
        return np.asarray(items, dtype=self._items.dtype) if self._items.dtype in _NARROW else items


class ObjectType(ColumnType):
    """``object``: named properties, each with its type; optional ones may be missing or null."""

    def __init__(self, properties: Mapping[str, tuple[ColumnType, bool]], expected: str, required: bool) -> None:
        self.expected = expected
        self._properties = properties
        self._required_names = {name for name, (_, needed) in properties.items() if needed}
        self._required = required

    def cell(self, value: Any) -> Any:
        if not self._required and (value is None or value == {}):
            return value
        if not isinstance(value, dict) or not self._required_names <= value.keys() <= self._properties.keys():
            raise Misfit(value, self.expected)
        converted = {}
        for name, item in value.items():
            kind, needed = self._properties[name]
            converted[name] = None if item is None and not needed else _at(f".{name}", kind, item)
        return converted


class MapType(ColumnType):
    """``map``: any string keys, values of one type."""

    def __init__(self, values: ColumnType, expected: str, required: bool) -> None:
        self.expected = expected
        self._values = values
        self._required = required
        self._nullable = not required or isinstance(values, AnyType)

    def cell(self, value: Any) -> Any:
        if value is None and self._nullable:
            return None
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Misfit(value, self.expected)
        return {
            key: None if item is None and not self._required else _at(f"[{short(key)}]", self._values, item)
            for key, item in value.items()
        }


NESTED = (ArrayType, ObjectType, MapType)


def _at(path: str, kind: ColumnType, value: Any) -> Any:
    try:
        cell = kind.cell(value)
    except Misfit as misfit:
        misfit.path = path + misfit.path
        raise
    if kind.dtype not in _NARROW:
        return cell
    return np.datetime64(cell, "ns") if kind.dtype == "datetime64[ns]" else np.dtype(kind.dtype).type(cell)


def column_type(spec: Mapping[str, Any], required: bool) -> ColumnType:
    """Compile MLflow's JSON of a type. Raises `KeyError` if the type is unknown."""
    name = spec["type"]
    if name == "any":
        return AnyType()
    if name not in NESTED_NAMES:
        return scalar_type(name, required)
    expected = type_name(spec)
    if name == "object":
        properties = {}
        for key, part in spec["properties"].items():
            needed = part.get("required", True)
            properties[key] = (column_type(part, needed), needed)
        return ObjectType(properties, expected, required)
    if name == "map":
        return MapType(column_type(spec["values"], required), expected, required)
    items = spec["items"] if name == "array" else {"type": "double"}
    # Scalars in an array are never null: pyfunc would turn a null into the string 'None' or False.
    return ArrayType(column_type(items, required or items["type"] not in NESTED_NAMES), expected, required)


def type_name(spec: Mapping[str, Any]) -> str:
    """Format MLflow's JSON of a type: ``array(double)``, ``object(name: string, age?: long)``."""
    name = str(spec["type"])
    if name == "array":
        return f"array({type_name(spec['items'])})"
    if name == "map":
        return f"map({type_name(spec['values'])})"
    if name == "object":
        parts = (
            f"{key}{'' if part.get('required', True) else '?'}: {type_name(part)}"
            for key, part in spec["properties"].items()
        )
        return f"object({', '.join(parts)})"
    return name
