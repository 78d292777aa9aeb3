from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.api.oip.metadata import input_metadata, output_metadata
from app.api.oip.output_tensors import output_tensors
from app.serving.rows import Output
from app.serving.signatures.signature import Signature


def column(kind: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more} | ({} if name is None else {"name": name})


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {**spec, "name": name}


DOUBLES = {"type": "double"}


@pytest.mark.parametrize(
    ("spec", "datatype", "shape"),
    [
        (column("boolean", "x"), "BOOL", [-1]),
        (column("integer", "x"), "INT32", [-1]),
        (column("long", "x"), "INT64", [-1]),
        (column("float", "x"), "FP32", [-1]),
        (column("double", "x"), "FP64", [-1]),
        (column("string", "x"), "BYTES", [-1]),
        (column("binary", "x"), "BYTES", [-1]),
        (column("datetime", "x"), "BYTES", [-1]),
        (column("array", "x", items=DOUBLES), "FP64", [-1, -1]),
        (column("array", "x", items={"type": "array", "items": {"type": "long"}}), "INT64", [-1, -1, -1]),
        (column("array", "x", items={"type": "string"}), "BYTES", [-1, -1]),
        (column("sparkml_vector", "x"), "FP64", [-1, -1]),
        (column("object", "x", properties={"a": {"type": "long"}}), "BYTES", [-1]),
        (column("map", "x", values=DOUBLES), "BYTES", [-1]),
        (column("any", "x"), "BYTES", [-1]),
        (tensor("float32", -1, 3, name="x"), "FP32", [-1, 3]),
        (tensor("uint8", 2, 28, 28, name="x"), "UINT8", [2, 28, 28]),
        (tensor("float16", -1, -1, name="x"), "FP16", [-1, -1]),
        (tensor("bool", -1, name="x"), "BOOL", [-1]),
        (tensor("str", -1, name="x"), "BYTES", [-1]),
        (tensor("object", -1, name="x"), "BYTES", [-1]),
        (tensor("datetime64[ns]", -1, name="x"), "BYTES", [-1]),
    ],
)
def test_every_type_has_its_datatype_and_shape(spec: dict[str, Any], datatype: str, shape: list[int]) -> None:
    signature = Signature.compile([spec], [spec])
    assert input_metadata(signature) == [("x", datatype, shape)]
    assert output_metadata(signature) == [("x", datatype, shape)]


def test_every_column_and_tensor_is_described_in_order() -> None:
    columns = Signature.compile([column("double", "b"), column("long", "a", required=False)])
    assert [one.name for one in input_metadata(columns)] == ["b", "a"]
    tensors = Signature.compile([tensor("float32", -1, name="q"), tensor("float64", -1, 2, name="p")])
    assert input_metadata(tensors) == [("q", "FP32", [-1]), ("p", "FP64", [-1, 2])]


def test_what_has_no_name_gets_one() -> None:
    signature = Signature.compile([tensor("float32", -1, 3)], [tensor("float64", -1)])
    assert input_metadata(signature) == [("input", "FP32", [-1, 3])]
    assert output_metadata(signature) == [("output", "FP64", [-1])]
    columns = Signature.compile([column("double"), column("long")], [column("double"), column("long")])
    assert input_metadata(columns) == output_metadata(columns) == [("0", "FP64", [-1]), ("1", "INT64", [-1])]


def test_without_a_signature_nothing_is_told() -> None:
    assert input_metadata(Signature.compile(None)) == []
    assert output_metadata(Signature.compile(None)) == []


@pytest.mark.parametrize("width", [1, 2, 3])
def test_inputs_of_the_described_shape_and_datatype_are_taken(width: int) -> None:
    for spec in (column("array", "x", items=DOUBLES), column("sparkml_vector", "x"), tensor("float64", -1, -1)):
        signature = Signature.compile([spec])
        assert [len(one.shape) for one in input_metadata(signature)] == [2]
        name = input_metadata(signature)[0].name
        rows = signature.rows("tensors", {name: np.ones((2, width))})
        assert [np.shape(value) for value in rows.columns[0]] == [(width,)] * 2


def test_answers_have_the_names_and_datatypes_that_are_told() -> None:
    cells = np.empty(2, dtype=object)
    cells[:] = [[1.5, 2.5], [3.0, None]]
    answers = {"list": cells, "when": np.array(["2024-01-01"] * 2, "datetime64[ns]"), "ok": np.array([True, False])}
    kinds = [column("array", "list", items=DOUBLES), column("datetime", "when"), column("boolean", "ok")]
    signature = Signature.compile(None, kinds)
    tensors = output_tensors(Output("columns", tuple(answers), tuple(answers.values()), 2), signature)
    told = output_metadata(signature)
    assert [(one.name, one.datatype, one.array.ndim) for one in tensors] == [
        (one.name, one.datatype, len(one.shape)) for one in told
    ]
