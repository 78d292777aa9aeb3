from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from app.adapters.mlflow.model_io import model_output
from app.api.oip.metadata import output_names
from app.api.oip.output_tensors import output_tensors
from app.api.oip.tensor_values import OutputTensor
from app.errors import ModelFailed
from app.serving.rows import Array, Output
from app.serving.signatures.signature import Signature


def signature(*outputs: dict[str, Any]) -> Signature:
    return Signature.compile(None, outputs)


def column(kind: str, name: str | int | None = None) -> dict[str, Any]:
    return {"type": kind} | ({} if name is None else {"name": name})


def one(array: Array) -> OutputTensor:
    """The tensor of a model's only output."""
    (tensor,) = output_tensors(Output("tensor", (), (array,), len(array)), signature())
    return tensor


def objects(*values: Any) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        *((f"{sign}int{bits}", f"{sign}INT{bits}".upper()) for sign in ("", "u") for bits in (8, 16, 32, 64)),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
        ("bool", "BOOL"),
    ],
)
def test_numbers_and_booleans_are_kept_as_they_are(dtype: str, datatype: str) -> None:
    array = np.ones((2, 3), dtype)
    assert one(array) == ("output", datatype, array)
    assert one(array).array is array


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (objects("a", None, float("nan"), np.datetime64("NaT")), ["a", "", "", ""]),
        (objects(b"\0", "a"), [b"\0", "a"]),
        (objects({"a": [1, None]}, 'say "x"'), ['{"a":[1,null]}', 'say "x"']),
        (objects("a", 1, 1.5, True), ["a", "1", "1.5", "true"]),
        (objects("a", Decimal("1.10"), timedelta(seconds=2)), ["a", "1.10", "2.0"]),
        (objects(1, None), ["1", ""]),  # as floats, integers of 64 bits would lose digits
        (objects(2**70), [str(2**70)]),
        (objects([1], [1, 2]), ["[1]", "[1,2]"]),
        (objects([1], None), ["[1]", ""]),
        (np.array(["2024-01-01", "NaT"], "datetime64[ns]"), ["2024-01-01T00:00:00", ""]),
        (objects(datetime.fromisoformat("2024-01-01")), ["2024-01-01T00:00:00"]),
    ],
)
def test_other_values_are_text_or_bytes(array: Array, expected: list[Any]) -> None:
    name, datatype, elements = one(array)
    assert (name, datatype, elements.dtype, elements.tolist()) == ("output", "BYTES", np.dtype(object), expected)


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (objects(1.5, None, 2), "FP64", "[1.5, nan, 2.0]"),
        (objects(1, -(2**63)), "INT64", f"[1, {-(2**63)}]"),
        (objects(2**64 - 1), "UINT64", f"[{2**64 - 1}]"),
        (objects(True, False), "BOOL", "[True, False]"),
        (objects([1, 2], [3, 4]), "INT64", "[[1, 2], [3, 4]]"),
        (objects([1.5, None], np.array([3, 4])), "FP64", "[[1.5, nan], [3.0, 4.0]]"),
        (objects([["a"]], [["b"]]), "BYTES", "[[['a']], [['b']]]"),
        (objects(*np.ones((2, 3), "f4")), "FP32", "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]"),
        (np.array([1500, 2], "m8[ms]"), "FP64", "[1.5, 0.002]"),
        (np.empty((2, 0), object), "FP64", "[[], []]"),
    ],
)
def test_objects_that_are_numbers_become_numbers(array: Array, datatype: str, expected: str) -> None:
    tensor = one(array)
    assert (tensor.datatype, repr(tensor.array.tolist())) == (datatype, expected)


def test_number_too_large_for_a_float_is_text() -> None:
    assert one(objects(1.5, 10**400)).array.tolist() == ["1.5", str(10**400)]


def test_other_objects_are_a_model_failure() -> None:
    with pytest.raises(ModelFailed):
        one(objects(object()))


def test_columns_and_entries_keep_their_names_and_order() -> None:
    arrays = (np.array([1]), np.array(["x"]))
    for kind in ("columns", "tensors"):
        tensors = output_tensors(Output(kind, ("b", "a"), arrays, 1), signature())
        assert [(one.name, one.datatype, one.array.tolist()) for one in tensors] == [
            ("b", "INT64", [1]),
            ("a", "BYTES", ["x"]),
        ]


def test_dicts_of_a_part_of_a_batch_are_columns() -> None:
    whole = model_output([{"label": "x", "size": 1}, {"label": "y", "size": 2}, {"score": 0.5}])
    alone = model_output([{"label": "x", "size": 1}, {"label": "y", "size": 2}])
    part, other = whole.split([2, 1])
    assert [one[:2] for one in output_tensors(other, signature())] == [("score", "FP64")]
    for found, expected in zip(output_tensors(part, signature()), output_tensors(alone, signature()), strict=True):
        assert found[:2] == expected[:2]
        assert found.array.tolist() == expected.array.tolist()
    assert [one.name for one in output_tensors(whole, signature())] == ["output"]


@pytest.mark.parametrize(
    ("outputs", "shape", "names"),
    [
        ((), (2,), ["output"]),
        ((), (2, 3), ["output"]),
        ((column("double"),), (2,), ["output"]),
        ((column("double", ""),), (2,), ["output"]),
        ((column("double", "price"),), (2,), ["price"]),
        ((column("double", "price"),), (2, 1), ["price"]),
        ((column("double", "low"), column("double", "high")), (2, 2), ["low", "high"]),
        ((column("double"), column("double")), (2, 2), ["0", "1"]),
        ((column("double", 0), column("double", "")), (2, 2), ["0", "1"]),
        ((column("double", "low"), column("double", "high")), (0,), ["low", "high"]),
    ],
)
def test_unnamed_array_gets_the_names_of_the_signature(
    outputs: tuple[dict[str, Any], ...], shape: tuple[int, ...], names: list[str]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    tensors = output_tensors(Output("tensor", (), (array,), 2), signature(*outputs))
    assert [one.name for one in tensors] == names
    if len(names) > 1 and array.size:
        assert [one.array.tolist() for one in tensors] == array.T.tolist()
    else:
        assert tensors[0].array.tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(2, 3), (2,)])
def test_other_outputs_than_declared_are_a_model_failure(shape: tuple[int, ...]) -> None:
    declared = signature(column("double", "low"), column("double", "high"))
    with pytest.raises(ModelFailed, match="answered the outputs output, but its signature declares low, high"):
        output_tensors(Output("tensor", (), (np.ones(shape),), 2), declared)
    with pytest.raises(ModelFailed, match="answered the outputs b, a, but its signature declares low, high"):
        output_tensors(Output("tensors", ("b", "a"), (np.ones(2), np.ones(2)), 2), declared)


def test_a_number_may_be_the_name_of_an_output() -> None:
    assert output_names(signature(column("double", 0))) == ["0"]
    assert output_names(signature()) == []
