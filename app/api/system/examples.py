"""Example request and response of a model for its documentation, from its input example or its signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from app.errors import ServingError
from app.serving.model_spec import ModelSpec
from app.serving.prediction.served_model import ServedModel
from app.serving.signatures.json_schema import Schema, request_schema, response_schema

_ROWS = 3
"""Rows of an input example that are shown."""
_VALUES = 5000
"""Most values of an example: a larger one slows down the browser."""


def example_request(model: ServedModel) -> dict[str, Any] | None:
    """Return a request body that the model's signature accepts, or None if neither source has one."""
    for body in _candidates(model):
        try:
            model.signature.rows("instances", body["instances"], body.get("parameters"))
        except ServingError:
            continue
        return body
    return None


def example_response(spec: ModelSpec) -> dict[str, Any]:
    """Return a response with the declared output types; without predictions if the model declares none."""
    schema = response_schema(spec)
    predictions = schema["properties"]["predictions"]
    shown = sample(predictions) if spec.outputs and _weight(predictions) <= _VALUES else []
    return {"predictions": shown, "model_name": spec.name, "model_version": spec.version}


def sample(schema: Schema) -> Any:  # noqa: PLR0911  # one line for each kind of schema
    """Make a value of a schema from `app.serving.signatures.json_schema`."""
    if "anyOf" in schema:
        return sample(schema["anyOf"][0])
    kinds = schema.get("type", "integer")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if kind == "array":
        if "prefixItems" in schema:
            return [sample(item) for item in schema["prefixItems"]]
        return [sample(schema["items"])] * schema.get("minItems", 1)
    if kind == "object":
        if "properties" in schema:
            return {name: sample(value) for name, value in schema["properties"].items()}
        return {"key": sample(schema["additionalProperties"])}
    if kind == "string":
        return "2024-01-01T00:00:00Z" if "format" in schema else "YWJj" if "contentEncoding" in schema else "text"
    return {"number": 1.0, "boolean": True}.get(kind, 1)


def _candidates(model: ServedModel) -> Iterator[dict[str, Any]]:
    spec = model.spec
    logged = spec.input_example
    try:
        rows = _rows(spec, logged) if isinstance(logged, Mapping) else []
    except (AttributeError, KeyError, TypeError, ValueError):  # not a form that MLflow documents
        rows = []
    shown = rows if model.signature.fixed_rows is not None else list(islice(rows, _ROWS))
    if shown and _count(shown) <= _VALUES:
        params = logged.get("params")
        if params:
            yield {"instances": shown, "parameters": params}
        yield {"instances": shown}
    instances = request_schema(spec)["properties"]["instances"]
    if spec.inputs and _weight(instances) <= _VALUES:
        yield {"instances": sample(instances)}


def _rows(spec: ModelSpec, logged: Mapping[str, Any]) -> list[Any]:
    """Return the rows of the scoring request that MLflow logs with a model."""
    named = not spec.inputs or bool(spec.inputs[0].get("name"))
    if "dataframe_split" in logged:
        split = logged["dataframe_split"]
        if named:
            return [dict(zip(map(str, split["columns"]), row, strict=True)) for row in split["data"]]
        single = spec.inputs is not None and len(spec.inputs) == 1 and spec.inputs[0]["type"] != "tensor"
        return [row[0] if single else row for row in split["data"]]
    for key in ("dataframe_records", "instances"):
        if key in logged:
            return list(logged[key])
    inputs = logged["inputs"]
    if not isinstance(inputs, Mapping):
        return inputs if isinstance(inputs, list) else [inputs]
    lists = [value for value in inputs.values() if isinstance(value, list)]
    if len(lists) < len(inputs):
        return [dict(inputs)]
    return [dict(zip(inputs, values, strict=True)) for values in zip(*lists, strict=True)]


def _count(value: Any) -> int:
    if isinstance(value, Mapping | list):
        return sum(map(_count, value.values() if isinstance(value, Mapping) else value))
    return 1


def _weight(schema: Schema) -> int:
    """Count the values of the schema's `sample`."""
    if "anyOf" in schema:
        return _weight(schema["anyOf"][0])
    if "prefixItems" in schema:
        return sum(map(_weight, schema["prefixItems"]))
    if "items" in schema:
        return int(schema.get("minItems", 1)) * _weight(schema["items"])
    return sum(map(_weight, schema["properties"].values())) if "properties" in schema else 1
