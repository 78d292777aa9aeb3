"""MLflow signatures as JSON Schema (2020-12): request and response of a model.

A schema is never wider than `app.serving.signatures.signature`, except where JSON Schema has no words for a rule:
base64 and times are annotations, lists may be ragged, and an optional whole number may be in some rows only. It is
narrower where several forms of a row are accepted: it describes the form with names, or lists if the inputs have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.serving.model_spec import ModelSpec
from app.serving.signatures.nested import NESTED_NAMES
from app.serving.signatures.scalars import NUMBERS

Schema = dict[str, Any]
Spec = Mapping[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MAX_NOTE = 500
_FORMATS = {"float32": "float", "float64": "double", "int32": "int32", "int64": "int64"}
_DTYPES = {"boolean": "bool", "string": "str", "binary": "bytes", "datetime": "datetime64[ns]", **NUMBERS}


def request_schema(spec: ModelSpec) -> Schema:
    """Describe ``{"instances": [...], "parameters": {...}}``; without `parameters` if the model has none.

    Raises:
        KeyError: the signature has an unknown type.
    """
    properties = {"instances": _instances(spec)}
    if spec.params:
        properties["parameters"] = _object({str(one["name"]): _parameter(one) for one in spec.params}, [])
    return _object(properties, ["instances"])


def response_schema(spec: ModelSpec) -> Schema:
    """Describe ``{"predictions", "model_name", "model_version"}``. Raises as `request_schema`."""
    properties = {
        "predictions": _predictions(spec),
        "model_name": {"type": "string", "const": spec.name},
        "model_version": {"type": "string"},
    }
    return _object(properties, list(properties))


def notes(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Read the notes on columns in a model's metadata, ``{"columns": {name: {"description": "…", "unit": "…"}}}``."""
    columns = metadata.get("columns")
    found = {}
    for name, facts in columns.items() if isinstance(columns, Mapping) else ():
        if isinstance(facts, Mapping):
            description, unit = (_text(facts.get(key)) for key in ("description", "unit"))
            text = f"{description} ({unit})" if description and unit else description or unit
            if text:
                found[str(name)] = text
    return found


def value_schema(spec: Spec, required: bool = True) -> Schema:
    """Describe one value of a column or property."""
    kind = spec["type"]
    if kind == "any":
        return {}
    if kind not in NESTED_NAMES:
        schema = _scalar(np.dtype(_DTYPES[kind]))
        return schema if required or kind in ("integer", "long") else _nullable(schema)
    if kind == "object":
        properties = spec["properties"]
        needed = {name: part.get("required", True) for name, part in properties.items()}
        values = {name: value_schema(part, needed[name]) for name, part in properties.items()}
        schema = _object(
            {name: value if needed[name] else _nullable(value) for name, value in values.items()},
            [name for name, is_needed in needed.items() if is_needed],
        )
        return schema if required else _nullable(schema)
    inner: Spec = {"type": "double"} if kind == "sparkml_vector" else spec["values" if kind == "map" else "items"]
    if kind == "map":
        value = value_schema(inner, required)
        schema = {"type": "object", "additionalProperties": value if required else _nullable(value)}
    else:
        schema = {"type": "array", "items": value_schema(inner, required or inner["type"] not in NESTED_NAMES)}
    return schema if required and inner["type"] != "any" else _nullable(schema)


def _instances(spec: ModelSpec) -> Schema:
    if not spec.inputs:
        return {"type": "array", "minItems": 1, "items": {}, "description": "Rows; the model was logged without types."}
    if spec.inputs[0]["type"] != "tensor":
        return {"type": "array", "minItems": 1, "items": _row(spec.inputs, notes(spec.metadata))}
    texts = notes(spec.metadata)
    shapes = [one["tensor-spec"]["shape"] for one in spec.inputs]
    rows = [_tensor(one, shape[1:], texts) for one, shape in zip(spec.inputs, shapes, strict=True)]
    names = [one.get("name") for one in spec.inputs]
    row = _object({str(name): value for name, value in zip(names, rows, strict=True)}, names) if names[0] else rows[0]
    return _array(row, next((shape[0] for shape in shapes if shape[0] != -1), -1))


def _predictions(spec: ModelSpec) -> Schema:
    outputs, texts = spec.outputs, notes(spec.metadata)
    if not outputs:
        return {"description": "The model's predictions; it was logged without types."}
    names = [one.get("name") for one in outputs]
    if outputs[0]["type"] == "tensor":
        tensors = [_tensor(one, one["tensor-spec"]["shape"], texts) for one in outputs]
        if names[0] is None:
            return tensors[0]
        named = _object({str(name): value for name, value in zip(names, tensors, strict=True)}, names)
        return {"anyOf": [tensors[0], named]} if len(names) == 1 else named
    row = _row(outputs, texts)
    if len(names) == 1 and names[0] is not None:
        # scikit-learn models answer an array even if their signature names the only column.
        row = {"anyOf": [row["properties"][str(names[0])], row]}
    rows = {"type": "array", "items": row}
    return rows if spec.batching.row_wise else {"anyOf": [rows, row]}  # it may answer one value for all rows


def _row(columns: Sequence[Spec], texts: Mapping[str, str]) -> Schema:
    """Describe one row: an object of columns. Without names it is a list of values, or the value of a single column."""
    required = [one.get("required") is not False for one in columns]
    values = [value_schema(one, needed) for one, needed in zip(columns, required, strict=True)]
    if "name" not in columns[0]:
        count = len(values)
        return values[0] if count == 1 else _array({}, count) | {"prefixItems": values}
    names = [str(one["name"]) for one in columns]
    for name, value, one, needed in zip(names, values, columns, required, strict=True):
        remarks = [texts[name]] if name in texts else []
        if not needed and one["type"] in ("integer", "long"):
            remarks.append("Send it in every row or in none.")
        if remarks:
            value["description"] = " ".join(remarks)
    schema = _object(
        dict(zip(names, values, strict=True)), [n for n, needed in zip(names, required, strict=True) if needed]
    )
    return schema if any(required) else schema | {"minProperties": 1}


def _parameter(spec: Spec) -> Schema:
    schema = value_schema(spec)
    # MLflow passes a null on to the model.
    if spec.get("shape") is not None:
        schema = {"type": "array", "items": _nullable(schema)}
    elif spec["type"] != "object":
        schema = _nullable(schema)
    return schema if spec.get("default") is None else schema | {"default": spec["default"]}


def _tensor(spec: Spec, shape: Sequence[int], texts: Mapping[str, str]) -> Schema:
    schema = _scalar(np.dtype(spec["tensor-spec"]["dtype"]))
    for size in reversed(shape):
        schema = _array(schema, size)
    text = texts.get(str(spec.get("name")))
    return schema | {"description": text} if text else schema


def _scalar(dtype: np.dtype[Any]) -> Schema:
    """Describe one element of a numpy dtype. NaN is null in requests and responses."""
    schema: Schema = {}
    if dtype.kind == "f":
        schema = {"type": ["number", "null"]}
        if dtype.itemsize < 8:
            schema |= {"minimum": float(np.finfo(dtype).min), "maximum": float(np.finfo(dtype).max)}
    elif dtype.kind in "iu":
        schema = {"type": "integer", "minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    elif dtype.kind != "O":
        others: dict[str, Schema] = {
            "b": {"type": "boolean"},
            "U": {"type": "string"},
            "S": {"type": "string", "contentEncoding": "base64"},
            "M": {"type": "string", "format": "date-time"},
        }
        schema = others[dtype.kind]
    return schema | {"format": _FORMATS[dtype.name]} if dtype.name in _FORMATS else schema


def _array(items: Schema, size: int) -> Schema:
    """Describe a list of `size` items; -1 is any number except 0."""
    bounds = {"minItems": 1} if size == -1 else {"minItems": size, "maxItems": size}
    return {"type": "array", **bounds, "items": items}


def _object(properties: Mapping[str, Schema], required: Sequence[Any]) -> Schema:
    named = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), **named, "additionalProperties": False}


def _nullable(schema: Schema) -> Schema:
    kinds = schema.get("type", "null")  # a schema without a type accepts null
    if kinds == "null" or "null" in kinds:
        return schema
    return schema | {"type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}


def _text(value: Any) -> str:
    return value.strip()[:_MAX_NOTE] if isinstance(value, str) else ""
