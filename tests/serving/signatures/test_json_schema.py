"""The schema of a model takes what its signature takes, and refuses what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from app.api.system.examples import example_request, example_response, sample
from app.errors import InvalidInput
from app.serving.batching_contract import BatchingContract
from app.serving.model_spec import ModelSpec
from app.serving.prediction.served_model import ServedModel
from app.serving.signatures.json_schema import notes, request_schema, response_schema
from app.serving.signatures.signature import Signature

SCALARS = ["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"]
WHOLE: dict[str, Any] = {
    "boolean": True,
    "integer": 2**31 - 1,
    "long": -(2**63),
    "float": 1.5,
    "double": 7,
    "string": "x",
    "binary": "YWJj",
    "datetime": "2024-02-29T12:00:00Z",
}
THING = Object(
    [
        Property("id", DataType.long),
        Property("age", DataType.integer, required=False),
        Property("tags", Array(DataType.string), required=False),
        Property("inner", Object([Property("sizes", Array(DataType.double))])),
    ]
)
PARAMS = [
    ParamSpec("top", DataType.long, 3),
    ParamSpec("rate", DataType.double, 0.5),
    ParamSpec("tags", DataType.string, ["a"], (-1,)),
    ParamSpec("deep", Object([Property("x", DataType.long)]), {"x": 1}),
]


def spec_of(
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    params: list[Any] | None = None,
    **further: Any,
) -> ModelSpec:
    """A model with a real MLflow signature."""
    schemas = [Schema(list(part)) if part else None for part in (inputs, outputs)]
    declared = ModelSignature(*schemas, ParamSchema(params) if params else None) if inputs or params else None
    parts = {name: json.loads(text) for name, text in declared.to_dict().items() if text} if declared else {}
    return ModelSpec("prices", "1", "test", **parts, **further)


def column(kind: Any, required: bool = True) -> ModelSpec:
    return spec_of([ColSpec(kind, "x", required=required)])


def tensors(*specs: tuple[str, tuple[int, ...]], names: str = "") -> ModelSpec:
    return spec_of(
        [TensorSpec(np.dtype(dtype), shape, names[i] if names else None) for i, (dtype, shape) in enumerate(specs)]
    )


def rows_of(*values: Any) -> list[dict[str, Any]]:
    return [{"x": value} for value in values]


SCALAR_SPEC = spec_of([ColSpec(kind, kind) for kind in SCALARS])
OPTIONAL_SPEC = spec_of([ColSpec(kind, kind, required=False) for kind in SCALARS])
UNNAMED = spec_of([ColSpec("double"), ColSpec("long")])

ACCEPTED: list[tuple[str, ModelSpec, list[Any]]] = [
    ("scalars", SCALAR_SPEC, [WHOLE]),
    ("null is NaN in a float column", SCALAR_SPEC, [WHOLE, {**WHOLE, "float": None, "double": None}]),
    ("whole floats are integers", SCALAR_SPEC, [{**WHOLE, "integer": 3.0, "long": 4.0}]),
    ("optional columns left out", OPTIONAL_SPEC, [{"long": 1}]),
    (
        "optional columns null",
        OPTIONAL_SPEC,
        [dict.fromkeys(SCALARS) | {"integer": 1, "long": 1}, {"integer": 1, "long": 2, "string": "x"}],
    ),
    ("list", column(Array(DataType.double)), rows_of([], [1, 2.5, None])),
    ("optional list", column(Array(DataType.long), False), rows_of([1], None)),
    ("lists in lists", column(Array(Array(DataType.string))), rows_of([["a"], []])),
    ("list of anything", column(Array(AnyType())), rows_of([1, "x", None, {}], None)),
    ("object", column(THING), rows_of({"id": 1, "inner": {"sizes": [1]}})),
    ("object with nulls", column(THING), rows_of({"id": 1, "age": None, "tags": None, "inner": {"sizes": []}})),
    ("optional object", column(THING, False), rows_of(None, {"id": 1, "inner": {"sizes": [2.5]}})),
    ("map", column(Map(DataType.double)), rows_of({}, {"a": 1, "b": None})),
    ("optional map", column(Map(DataType.string), False), rows_of(None, {"a": None})),
    ("map of anything", column(Map(AnyType())), rows_of(None, {"a": [1]})),
    ("anything", column(AnyType()), rows_of(None, 1, "x", {"deep": [1]})),
    ("unnamed columns", UNNAMED, [[1.5, 2], [None, 3]]),
    ("one unnamed column", spec_of([ColSpec("string")]), ["a", "b"]),
    ("one unnamed list", spec_of([ColSpec(Array(DataType.long))]), [[1, 2], []]),
    ("one unnamed object", spec_of([ColSpec(THING)]), [{"id": 1, "inner": {"sizes": [1]}}]),
    ("numbered columns", spec_of([ColSpec("double", 7), ColSpec("long", 3)]), [{"7": 1, "3": 2}]),
    ("tensor", tensors(("float32", (-1, 2, 2))), [[[1, 2], [3, None]]]),
    ("tensor of free dimensions", tensors(("float64", (-1, -1, 2))), [[[1, 2], [3, 4]]]),
    ("tensor of bytes", tensors(("uint8", (-1, 3))), [[0, 128, 255]]),
    ("tensor of truth", tensors(("bool", (-1,))), [True, False]),
    ("tensor of text", tensors(("str", (-1, 1))), [["a"]]),
    ("tensor of anything", tensors(("object", (-1, 2))), [["a", 1]]),
    ("tensor of fixed rows", tensors(("int64", (2, 1))), [[1], [2]]),
    ("named tensors", tensors(("float32", (-1, 2)), ("int64", (-1,)), names="ab"), [{"a": [1, 2], "b": 3}]),
    ("no signature, objects", spec_of(), [{"a": 1, "b": "x"}]),
    ("no signature, lists", spec_of(), [[1, 2], [3, 4]]),
]
REFUSED: list[tuple[str, ModelSpec, list[Any]]] = [
    ("no rows", SCALAR_SPEC, []),
    *((f"null {kind}", SCALAR_SPEC, [{**WHOLE, kind: None}]) for kind in SCALARS if kind not in ("float", "double")),
    *((f"object as {kind}", SCALAR_SPEC, [{**WHOLE, kind: {}}]) for kind in SCALARS),
    *((f"number as {kind}", SCALAR_SPEC, [{**WHOLE, kind: 1}]) for kind in ("boolean", "string", "binary", "datetime")),
    *((f"text as {kind}", SCALAR_SPEC, [{**WHOLE, kind: "1"}]) for kind in ("boolean", "integer", "long", "double")),
    *((f"truth as {kind}", SCALAR_SPEC, [{**WHOLE, kind: True}]) for kind in ("integer", "long", "float", "double")),
    ("no whole number", SCALAR_SPEC, [{**WHOLE, "long": 1.5}]),
    ("integer out of range", SCALAR_SPEC, [{**WHOLE, "integer": 2**31}]),
    ("long out of range", SCALAR_SPEC, [{**WHOLE, "long": 2**63}]),
    ("float out of range", SCALAR_SPEC, [{**WHOLE, "float": 3.5e38}]),
    ("missing column", SCALAR_SPEC, [{key: value for key, value in WHOLE.items() if key != "long"}]),
    ("unknown column", SCALAR_SPEC, [{**WHOLE, "other": 1}]),
    ("second row wrong", SCALAR_SPEC, [WHOLE, {**WHOLE, "string": 1}]),
    ("a row that is text", SCALAR_SPEC, ["x"]),
    ("null in an optional long", OPTIONAL_SPEC, [{"long": None}]),
    ("null list", column(Array(DataType.double)), rows_of(None)),
    ("text in a list", column(Array(DataType.double)), rows_of([1, "x"])),
    ("null in a list", column(Array(DataType.long)), rows_of([1, None])),
    ("a list too flat", column(Array(Array(DataType.double))), rows_of([1])),
    ("object without a property", column(THING), rows_of({"id": 1})),
    ("object with another property", column(THING), rows_of({"id": 1, "inner": {"sizes": [1]}, "x": 1})),
    ("deep inside an object", column(THING), rows_of({"id": 1, "inner": {"sizes": ["x"]}})),
    ("null object", column(THING), rows_of(None)),
    ("null map", column(Map(DataType.double)), rows_of(None)),
    ("null in a map", column(Map(DataType.string)), rows_of({"a": None})),
    ("text in a map", column(Map(DataType.double)), rows_of({"a": "x"})),
    ("too few unnamed columns", UNNAMED, [[1.5]]),
    ("too many unnamed columns", UNNAMED, [[1.5, 2, 3]]),
    ("unnamed column of another type", UNNAMED, [[1.5, "x"]]),
    ("tensor of another shape", tensors(("float32", (-1, 2, 2))), [[[1, 2, 3], [3, 4, 5]]]),
    ("tensor of text", tensors(("float32", (-1, 2))), [["a", "b"]]),
    ("tensor too deep", tensors(("float32", (-1, 2))), [[[1], [2]]]),
    ("tensor out of range", tensors(("uint8", (-1, 1))), [[256]]),
    ("tensor of half floats out of range", tensors(("float16", (-1, 1))), [[1e6]]),
    ("null in a tensor of integers", tensors(("int64", (-1, 1))), [[None]]),
    ("too few rows of a fixed number", tensors(("int64", (2, 1))), [[1]]),
    ("a tensor missing", tensors(("float32", (-1, 2)), ("int64", (-1,)), names="ab"), [{"a": [1, 2]}]),
]
ONLY_THE_SIGNATURE_TELLS: list[tuple[str, ModelSpec, list[Any]]] = [
    ("no base64", SCALAR_SPEC, [{**WHOLE, "binary": "a"}]),
    ("no time", SCALAR_SPEC, [{**WHOLE, "datetime": "soon"}]),
    ("an optional long in some rows", OPTIONAL_SPEC, [{"long": 1, "string": "x"}, {"string": "x"}]),
    ("ragged lists", tensors(("float64", (-1, -1))), [[1], [1, 2]]),
]


def schema_takes(spec: ModelSpec, body: Any) -> bool:
    schema = request_schema(spec)
    Draft202012Validator.check_schema(schema)
    return bool(Draft202012Validator(schema).is_valid(body))


def signature_takes(spec: ModelSpec, rows: Any, params: Any = None) -> bool:
    try:
        Signature.compile(spec.inputs, spec.outputs, spec.params).rows("instances", rows, params)
    except InvalidInput:
        return False
    return True


def ids(cases: list[tuple[str, ModelSpec, list[Any]]]) -> list[Any]:
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("spec", "rows"), ids(ACCEPTED))
def test_schema_and_signature_accept(spec: ModelSpec, rows: list[Any]) -> None:
    assert signature_takes(spec, rows)
    assert schema_takes(spec, {"instances": rows})


@pytest.mark.parametrize(("spec", "rows"), ids(REFUSED))
def test_schema_and_signature_refuse(spec: ModelSpec, rows: list[Any]) -> None:
    assert not signature_takes(spec, rows)
    assert not schema_takes(spec, {"instances": rows})


@pytest.mark.parametrize(("spec", "rows"), ids(ONLY_THE_SIGNATURE_TELLS))
def test_only_the_signature_refuses(spec: ModelSpec, rows: list[Any]) -> None:
    assert not signature_takes(spec, rows)
    assert schema_takes(spec, {"instances": rows})


@pytest.mark.parametrize(
    ("params", "fits"),
    [
        ({}, True),
        ({"top": 5, "rate": 1, "tags": ["x", None], "deep": {"x": 2}}, True),
        ({"top": None, "rate": None}, True),
        ({"top": "5"}, False),
        ({"tags": "x"}, False),
        ({"tags": None}, False),
        ({"deep": None}, False),
        ({"deep": {"x": "y"}}, False),
        ({"other": 1}, False),
    ],
)
def test_parameters(params: dict[str, Any], fits: bool) -> None:
    spec = spec_of([ColSpec("double", "x")], params=PARAMS)
    assert signature_takes(spec, rows_of(1), params) is fits
    assert schema_takes(spec, {"instances": rows_of(1), "parameters": params}) is fits


def test_parameters_have_their_defaults() -> None:
    parameters = request_schema(spec_of([ColSpec("double", "x")], params=PARAMS))["properties"]["parameters"]
    assert {name: value["default"] for name, value in parameters["properties"].items()} == {
        "top": 3,
        "rate": 0.5,
        "tags": ["a"],
        "deep": {"x": 1},
    }


def test_requests_have_no_other_keys() -> None:
    spec = column("double")
    assert schema_takes(spec, {"instances": rows_of(1)})
    assert not schema_takes(spec, {"instances": rows_of(1), "parameters": {}})
    assert not schema_takes(spec, {"rows": rows_of(1)})
    assert not schema_takes(spec, rows_of(1))


def test_number_formats_are_named() -> None:
    row = request_schema(SCALAR_SPEC)["properties"]["instances"]["items"]
    assert row["required"] == SCALARS
    formats = {name: value.get("format") for name, value in row["properties"].items()}
    assert formats == {
        "boolean": None,
        "integer": "int32",
        "long": "int64",
        "float": "float",
        "double": "double",
        "string": None,
        "binary": None,
        "datetime": "date-time",
    }
    assert row["properties"]["long"]["maximum"] == 2**63 - 1
    assert row["properties"]["binary"]["contentEncoding"] == "base64"


def test_units_come_from_the_metadata() -> None:
    facts = {
        "oil": {"description": " Price of crude oil", "unit": "USD per barrel"},
        "gas": {"unit": "USD per MMBtu"},
        "rate": {"description": "Exchange rate"},
        "price": {"unit": "USD"},
    }
    names = ("oil", "gas", "rate", "other")
    spec = spec_of(
        [ColSpec("double", name) for name in names], [ColSpec("double", "price")], metadata={"columns": facts}
    )
    row = request_schema(spec)["properties"]["instances"]["items"]["properties"]
    assert [row[name].get("description") for name in names] == [
        "Price of crude oil (USD per barrel)",
        "USD per MMBtu",
        "Exchange rate",
        None,
    ]
    assert "USD" in str(response_schema(spec))


@pytest.mark.parametrize(
    "metadata", [{}, {"columns": None}, {"columns": ["x"]}, {"columns": {"x": "USD"}}, {"columns": {"x": {"unit": 7}}}]
)
def test_other_metadata_is_ignored(metadata: dict[str, Any]) -> None:
    assert notes(metadata) == {}


def test_optional_integer_is_in_every_row_or_in_none() -> None:
    row = request_schema(OPTIONAL_SPEC)["properties"]["instances"]["items"]
    assert "every row or in none" in row["properties"]["long"]["description"]
    assert "description" not in row["properties"]["double"]


OUTPUTS: list[tuple[str, Sequence[Any] | None, list[Any], list[Any]]] = [
    ("one column", [ColSpec("double", "price")], [[1.5, None], [{"price": None}]], [["x"], [{"other": 1}], 1]),
    ("unnamed", [ColSpec("long")], [[1, 2]], [[1.5], [{"0": 1}]]),
    ("columns", [ColSpec("double", "a"), ColSpec("string", "b")], [[{"a": 1, "b": "x"}]], [[1], [{"a": 1}]]),
    ("tensor", [TensorSpec(np.dtype("float32"), (-1, 2))], [[[1, None]]], [[[1]], [1], [["a", "b"]]]),
    ("one named tensor", [TensorSpec(np.dtype("int64"), (-1,), "n")], [[1, 2], {"n": [1]}], [{"m": [1]}, ["x"]]),
    (
        "named tensors",
        [TensorSpec(np.dtype("int64"), (-1,), "n"), TensorSpec(np.dtype("bool"), (-1,), "b")],
        [{"n": [1], "b": [True]}],
        [{"n": [1]}, [1]],
    ),
    ("objects", [ColSpec(THING)], [[{"id": 1, "inner": {"sizes": [1.5]}}]], [[{}]]),
    ("not declared", None, [[1], {"x": "y"}, [[None]]], []),
]


@pytest.mark.parametrize(("outputs", "right", "wrong"), [pytest.param(*case[1:], id=case[0]) for case in OUTPUTS])
def test_responses(outputs: Sequence[Any] | None, right: list[Any], wrong: list[Any]) -> None:
    spec = spec_of([ColSpec("double", "x")], outputs, batching=BatchingContract(row_wise=True, basis="proven"))
    Draft202012Validator.check_schema(response_schema(spec))
    validator = Draft202012Validator(response_schema(spec))
    answer = {"model_name": "prices", "model_version": "1"}
    assert [one for one in right if not validator.is_valid({**answer, "predictions": one})] == []
    assert [one for one in wrong if validator.is_valid({**answer, "predictions": one})] == []
    assert not validator.is_valid({"predictions": right[0]})
    if outputs:
        assert validator.is_valid(example_response(spec))


def test_a_model_that_is_not_row_wise_may_answer_one_value() -> None:
    spec = spec_of([ColSpec("double", "x")], [ColSpec("double", "mean"), ColSpec("string", "label")])
    validator = Draft202012Validator(response_schema(spec)["properties"]["predictions"])
    value = {"mean": 1.5, "label": "x"}
    assert [validator.is_valid(one) for one in (value, [value, value], 1, [1])] == [True, True, False, False]


@pytest.mark.parametrize(("spec", "rows"), ids(ACCEPTED))
def test_generated_examples_are_valid_requests(spec: ModelSpec, rows: list[Any]) -> None:
    made = sample(request_schema(spec))
    if spec.inputs:
        assert schema_takes(spec, made)
        assert signature_takes(spec, made["instances"], made.get("parameters"))
    else:
        assert example_request(served(spec)) is None


def served(spec: ModelSpec) -> ServedModel:
    return ServedModel(spec, directory=None, batch=None)  # type: ignore[arg-type]  # nothing is predicted


NAMED = [ColSpec("double", "oil"), ColSpec("long", "gas")]


@pytest.mark.parametrize(
    ("inputs", "logged", "rows"),
    [
        (NAMED, {"dataframe_split": {"columns": ["oil", "gas"], "data": [[1.5, 2]]}}, [{"oil": 1.5, "gas": 2}]),
        (NAMED, {"dataframe_records": [{"oil": 1.5, "gas": 2}]}, [{"oil": 1.5, "gas": 2}]),
        (NAMED, {"inputs": {"oil": [1.5, 2.5], "gas": [2, 3]}}, [{"oil": 1.5, "gas": 2}, {"oil": 2.5, "gas": 3}]),
        (NAMED, {"inputs": {"oil": 1.5, "gas": 2}}, [{"oil": 1.5, "gas": 2}]),
        (NAMED, {"instances": [{"oil": 1.5, "gas": 2}]}, [{"oil": 1.5, "gas": 2}]),
        (
            [ColSpec("double"), ColSpec("long")],
            {"dataframe_split": {"columns": [0, 1], "data": [[1.5, 2]]}},
            [[1.5, 2]],
        ),
        ([ColSpec("string")], {"dataframe_split": {"columns": [0], "data": [["a"]]}}, ["a"]),
        ([TensorSpec(np.dtype("float32"), (-1, 2))], {"inputs": [[1.5, 2.5]]}, [[1.5, 2.5]]),
        ([TensorSpec(np.dtype("float32"), (-1, 2), "t")], {"inputs": {"t": [[1.5, 2]]}}, [{"t": [1.5, 2]}]),
        (None, {"dataframe_split": {"columns": ["a"], "data": [[1]]}}, [{"a": 1}]),
        (None, {"inputs": [[1, 2]]}, [[1, 2]]),
    ],
)
def test_logged_example_becomes_instances(inputs: Any, logged: Any, rows: list[Any]) -> None:
    spec = spec_of(inputs, input_example=logged)
    assert example_request(served(spec)) == {"instances": rows}
    assert schema_takes(spec, {"instances": rows})


def test_logged_parameters_are_shown() -> None:
    logged = {"dataframe_records": [{"x": 1.5}], "params": {"top": 7}}
    spec = spec_of([ColSpec("double", "x")], params=PARAMS, input_example=logged)
    assert example_request(served(spec)) == {"instances": [{"x": 1.5}], "parameters": {"top": 7}}


@pytest.mark.parametrize(
    "logged",
    ["text", {}, {"other": 1}, {"dataframe_split": None}, {"dataframe_split": {"data": [[1]]}}, {"inputs": {"y": [1]}}],
)
def test_invalid_logged_example_is_replaced(logged: Any) -> None:
    spec = spec_of([ColSpec("double", "x")], input_example=logged)
    assert example_request(served(spec)) == {"instances": [{"x": 1.0}]}


def test_long_example_is_cut() -> None:
    spec = spec_of([ColSpec("double", "x")], input_example={"dataframe_records": rows_of(*range(100))})
    assert example_request(served(spec)) == {"instances": rows_of(0, 1, 2)}


def test_example_keeps_a_fixed_number_of_rows() -> None:
    spec = spec_of([TensorSpec(np.dtype("float32"), (4, 1))], input_example={"inputs": [[1], [2], [3], [4]]})
    assert example_request(served(spec)) == {"instances": [[1], [2], [3], [4]]}


def test_no_example_for_huge_tensors() -> None:
    spec = spec_of([TensorSpec(np.dtype("uint8"), (-1, 1024, 1024, 3))], [TensorSpec(np.dtype("float32"), (-1, 10**6))])
    assert example_request(served(spec)) is None
    assert example_response(spec)["predictions"] == []
