"""A request that a model answers, for its documentation: its logged input example, or one made from its types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from app.errors import ServingError
from app.serving.model_spec import ModelSpec
from app.serving.prediction.requests import Payload
from app.serving.prediction.served_model import ServedModel
from app.serving.signatures.json_schema import Schema, request_schema, response_schema

Body = dict[str, Any]

_ROWS = 3
"""Rows that are shown of a logged example."""
_VALUES = 5000
"""An example of more values than this helps nobody, and keeps a browser busy."""


def example_request(model: ServedModel) -> Body | None:
    """The body of a prediction that the model's signature takes, None where there is none to be found."""
    for body in _candidates(model):
        try:
            model.rows(Payload("instances", body["instances"]), body.get("parameters"))
        except ServingError:
            continue
        return body
    return None


def example_response(spec: ModelSpec) -> Body:
    """An answer of the types that the model declares; without predictions where it declares none."""
    schema = response_schema(spec)
    predictions = schema["properties"]["predictions"]
    shown = sample(predictions) if spec.outputs and _weight(predictions) <= _VALUES else []
    return {"predictions": shown, "model_name": spec.name, "model_version": spec.version}


def sample(schema: Schema) -> Any:  # noqa: PLR0911  # one line for each kind of schema
    """Some value of a schema that `app.serving.signatures.json_schema` made."""
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


def _candidates(model: ServedModel) -> Iterator[Body]:
    spec = model.spec
    logged = spec.input_example
    try:
        rows = _rows(spec, logged) if isinstance(logged, Mapping) else []
    except (AttributeError, KeyError, TypeError, ValueError):  # not of a form that MLflow documents
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
    """The rows of a scoring request as MLflow writes it beside a model."""
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
    """How many values its `sample` has."""
    if "anyOf" in schema:
        return _weight(schema["anyOf"][0])
    if "prefixItems" in schema:
        return sum(map(_weight, schema["prefixItems"]))
    if "items" in schema:
        return int(schema.get("minItems", 1)) * _weight(schema["items"])
    return sum(map(_weight, schema["properties"].values())) if "properties" in schema else 1
