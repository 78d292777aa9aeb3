"""Answers of every form as tensors, natural and as the metadata promises them, on models in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app.adapters.mlflow.model_io import model_output
from app.oip import inference_pb2 as pb
from tests.api.oip.payloads import given, tensors, unnamed
from tests.api.oip.test_grpc import serving
from tests.connect import Connect
from tests.fakes import FakeModel, Fakes, columns, make_fakes

X = [given("x", "FP64", [1, 2])]
Described = list[tuple[str, str, list[Any]]]


def answering(answer: Any, outputs: Sequence[dict[str, Any]] | None = None) -> Fakes:
    return make_fakes({"m": FakeModel(lambda batch: model_output(answer), columns("x"), outputs, row_wise=False)})


def column(kind: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": kind, "required": True, **more} | ({} if name is None else {"name": name})


THING = column("object", properties={"a": {"type": "long", "required": True}})
WORDS = column("array", "words", items={"type": "string"})
SIZES = column("array", "sizes", items={"type": "double"})

NATURAL: list[tuple[Any, Described]] = [
    (1.5, [("output", "FP64", [1.5])]),
    (np.float32(0.5), [("output", "FP32", [0.5])]),
    (3, [("output", "INT64", [3])]),
    (True, [("output", "BOOL", [True])]),
    ("text", [("output", "BYTES", ["text"])]),
    (None, [("output", "BYTES", [""])]),
    ({}, [("output", "BYTES", ["{}"])]),
    ({"label": "a", "score": 0.5}, [("label", "BYTES", ["a"]), ("score", "FP64", [0.5])]),
    ({"a": {"b": [1, None]}, "c": None}, [("a", "BYTES", ['{"b":[1,null]}']), ("c", "BYTES", [""])]),
    ({"a": [1, 2], "b": [0.5]}, [("a", "INT64", [1, 2]), ("b", "FP64", [0.5])]),
    ({"s": np.array([0.5], "f4"), "m": "x"}, [("s", "FP32", [0.5]), ("m", "BYTES", ["x"])]),
    ([[1], [2, 3]], [("output", "BYTES", ["[1]", "[2,3]"])]),
    ([{"a": 1}, {"b": 2}], [("output", "BYTES", ['{"a":1}', '{"b":2}'])]),
    ((np.array(["a", "b"]), np.array([0.5])), [("output_0", "BYTES", ["a", "b"]), ("output_1", "FP64", [0.5])]),
    (pd.Series([1, 2, 3], name="price"), [("price", "INT64", [1, 2, 3])]),
    (pd.Series([1.0]), [("output", "FP64", [1.0])]),
]

PROMISED: list[tuple[Any, Sequence[dict[str, Any]], Described]] = [
    (np.array([0.1, 2]), [column("float")], [("output", "FP32", [pytest.approx(0.1), 2.0])]),
    (np.array([0.5]), [unnamed("float32", -1)], [("output", "FP32", [0.5])]),
    ([1, None], [column("double", "y")], [("y", "FP64", [1.0, None])]),
    ([None, None], [column("float", "y")], [("y", "FP32", [None, None])]),
    ([1.0, 2], [column("long", "y")], [("y", "INT64", [1, 2])]),
    ([2**62 + 1, 1.0], [column("long", "y")], [("y", "INT64", [2**62 + 1, 1])]),
    (np.array([1, 0]), [column("boolean", "y")], [("y", "BOOL", [True, False])]),
    (np.array([True]), [column("integer", "y")], [("y", "INT32", [1])]),
    ([1, None], [column("long", "y", required=False)], [("y", "BYTES", ["1", ""])]),
    ([1, 2], [column("long", "y", required=False)], [("y", "BYTES", ["1", "2"])]),
    ([True, None], [column("boolean", "y", required=False)], [("y", "BYTES", ["true", ""])]),
    ([1, 2.5], [column("string", "y")], [("y", "BYTES", ["1", "2.5"])]),
    (1.5, [column("double")], [("output", "FP64", [1.5])]),
    ("text", [column("string")], [("output", "BYTES", ["text"])]),
    (pd.Series([1.5], name="other"), [column("double", "y")], [("y", "FP64", [1.5])]),
    (pd.DataFrame({"b": [1], "a": ["x"]}), [column("string", "a"), column("double", "b")], [
        ("a", "BYTES", ["x"]), ("b", "FP64", [1.0])
    ]),
    (pd.DataFrame({"b": [1], "a": [2]}), [column("long", "a")], [("a", "INT64", [2]), ("b", "INT64", [1])]),
    (([1], ["x"]), [column("long", "n"), column("string", "s")], [("n", "INT64", [1]), ("s", "BYTES", ["x"])]),
    ([{"a": 1.5}, {"a": 2, "b": 1}], [column("double", "a"), column("double", "b", required=False)], [
        ("a", "FP64", [1.5, 2.0]), ("b", "FP64", [None, 1.0])
    ]),
    (pd.DataFrame({"a": [1.5]}), [column("double", "a"), column("string", "b", required=False)], [
        ("a", "FP64", [1.5]), ("b", "BYTES", [""])
    ]),
    ([{"a": 1}, {"a": 2}], [THING], [("output", "BYTES", ['{"a":1}', '{"a":2}'])]),
    ({"a": 1}, [THING], [("output", "BYTES", ['{"a":1}'])]),
    ([1.5, "x"], [column("any")], [("output", "BYTES", ["1.5", "x"])]),
    ({"words": ["a", "b"], "sizes": [1, 2]}, [WORDS, SIZES], [
        ("words", "BYTES", [["a", "b"]]), ("sizes", "FP64", [[1.0, 2.0]])
    ]),
    (pd.DataFrame({"sizes": [[1, 2], [3, None]]}), [SIZES], [("sizes", "FP64", [[1.0, 2.0], [3.0, None]])]),
    (pd.DataFrame({"words": [["a"], ["b", "c"]]}), [WORDS], [("words", "BYTES", ['["a"]', '["b","c"]'])]),
    (pd.DataFrame({"a": []}), [column("long", "a")], [("a", "INT64", [])]),
]  # fmt: skip

BROKEN: list[tuple[Any, Sequence[dict[str, Any]], str]] = [
    (["a"], [column("double", "y")], "output 'y' has the value 'a': no tensor of FP64"),
    ([1.5], [column("long", "y")], "output 'y' has the value 1.5: no tensor of INT64"),
    ([1, None], [column("long", "y")], "output 'y' has a missing value: no tensor of INT64"),
    (np.array([1, np.nan]), [column("long", "y")], "output 'y' has a missing value: no tensor of INT64"),
    ([2], [column("boolean", "y")], "output 'y' has the value 2: no tensor of BOOL"),
    ([2**40], [column("integer", "y")], "output 'y' has a value out of the range of INT32"),
    ([10**400], [column("double", "y")], "output 'y' has a value out of the range of FP64"),
    ([1e300], [column("float", "y")], "output 'y' has a value out of the range of FP32"),
    (
        pd.DataFrame({"sizes": [[1], [2, 3]]}),
        [SIZES],
        "output 'sizes' has lists of different lengths: no tensor of FP64",
    ),
    ({"a": 1, "b": 2}, [column("double", "y")], "the model answered the outputs a, b, but its signature declares y"),
    (
        {"a": 1},
        [column("double", "a"), column("double", "b")],
        "answered the outputs a, but its signature declares a, b",
    ),
]


async def inferred(connect: Connect, fakes: Fakes, **more: Any) -> tuple[Described, Any]:
    """The outputs with their nested values, and the response."""
    response = await connect(fakes).post("/v2/models/m/infer", json={"inputs": X, **more})
    if response.status_code != 200:
        return [], response
    values = tensors(response)
    return [(one["name"], one["datatype"], values[one["name"]]) for one in response.json()["outputs"]], response


@pytest.mark.parametrize(("answer", "expected"), NATURAL)
async def test_without_a_signature_outputs_are_natural(answer: Any, expected: Described, connect: Connect) -> None:
    assert (await inferred(connect, answering(answer)))[0] == expected


@pytest.mark.parametrize(("answer", "outputs", "expected"), PROMISED)
async def test_outputs_are_as_the_metadata_promises(
    answer: Any, outputs: Sequence[dict[str, Any]], expected: Described, connect: Connect
) -> None:
    fakes = answering(answer, outputs)
    found, response = await inferred(connect, fakes)
    assert found == expected, response.text
    described = (await connect(fakes).get("/v2/models/m")).json()["outputs"]
    assert [(one["name"], one["datatype"]) for one in described] == [one[:2] for one in found[: len(outputs)]]
    wanted = [{"name": one["name"]} for one in reversed(described)]
    assert (await inferred(connect, fakes, outputs=wanted))[0] == found[: len(outputs)][::-1]


@pytest.mark.parametrize(("answer", "outputs", "message"), BROKEN)
async def test_an_answer_that_breaks_a_promise_is_a_failure(
    answer: Any, outputs: Sequence[dict[str, Any]], message: str, connect: Connect
) -> None:
    _, response = await inferred(connect, answering(answer, outputs))
    assert (response.status_code, response.json()["code"]) == (500, "model_failed")
    assert message in response.json()["error"]
    assert "signature declares" in response.json()["error"]


async def test_half_a_character_is_a_failure(connect: Connect) -> None:
    for outputs in (None, [column("string", "y")]):
        for answer in (["a", "\ud800"], [{"a": "\ud800"}, 1]):
            _, response = await inferred(connect, answering(answer, outputs))
            assert (response.status_code, response.json()["code"]) == (500, "model_failed")
            assert "half a character" in response.json()["error"]


async def test_grpc_answers_the_same() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[2])
    tensor.contents.fp64_contents.extend([1.0, 2.0])
    request = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    async with serving(answering({"label": "a", "score": 1, "more": {"b": None}})) as stub:
        label, score, more = (await stub.ModelInfer(request)).outputs
    assert (label.name, label.datatype, [*label.shape]) == ("label", "BYTES", [1])
    assert [*label.contents.bytes_contents] == [b"a"]
    assert [*score.contents.int64_contents] == [1]
    assert json.loads(more.contents.bytes_contents[0]) == {"b": None}
    async with serving(answering(1, [column("float", "y")])) as stub:
        (output,) = (await stub.ModelInfer(request)).outputs
    assert (output.name, output.datatype, [*output.contents.fp32_contents]) == ("y", "FP32", [1.0])
