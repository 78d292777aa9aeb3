from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.oip.json_tensors import read_tensor
from app.errors import InvalidInput, InvalidRequest
from app.oip.datatypes import DTYPES
from app.serving.rows import Array

IN_JSON = [name for name in DTYPES if name != "BF16"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(codec="utf-8")),
    "FP16": st.floats(width=16, allow_nan=False, allow_infinity=False) | st.integers(-65504, 65504),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    **{
        name: st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        for name, dtype in DTYPES.items()
        if dtype.kind in "iu"
    },
}


def refused(datatype: str, shape: list[int], data: Any, name: str = "x") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_tensor(name, datatype, shape, data)
    assert len(caught.value.message) < 1500
    json.dumps(caught.value.details)
    return caught.value


def bits(array: Array) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tolist() if array.dtype.hasobject else array.tobytes()


@given(st.sampled_from(IN_JSON), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_flat_and_nested_values_are_the_same_tensor(datatype: str, shape: list[int], data: st.DataObject) -> None:
    count = math.prod(shape)
    flat = data.draw(st.lists(VALUES[datatype], min_size=count, max_size=count))
    expected = np.empty(count, dtype=DTYPES[datatype])
    expected[:] = flat
    expected = expected.reshape(shape)
    assert bits(read_tensor("x", datatype, shape, flat)) == bits(expected)
    boxed = np.empty(count, dtype=object)
    boxed[:] = flat
    assert bits(read_tensor("x", datatype, shape, boxed.reshape(shape).tolist())) == bits(expected)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_null_among_floats_is_nan(datatype: str) -> None:
    assert repr(read_tensor("x", datatype, [2, 1], [[None], [1]]).tolist()) == "[[nan], [1.0]]"


def test_whole_floats_are_integers() -> None:
    assert read_tensor("x", "INT8", [2], [3.0, -1]).tolist() == [3, -1]


@pytest.mark.parametrize(
    ("datatype", "value", "words"),
    [
        ("BOOL", 1, "true or false"),
        ("BOOL", None, "true or false"),
        ("BYTES", 1, "a string"),
        ("BYTES", None, "a string"),
        ("FP64", "1", "a number (FP64)"),
        ("FP64", True, "a number (FP64)"),
        ("FP32", 1e39, "a number (FP32)"),
        ("FP16", 65520, "a number (FP16)"),
        ("INT8", 128, "from -128 to 127 (INT8)"),
        ("INT64", 2**63, "from -9223372036854775808 to 9223372036854775807 (INT64)"),
        ("UINT64", -1, "from 0 to 18446744073709551615 (UINT64)"),
        ("UINT64", 2.0**64, "(UINT64)"),
        ("INT32", 1.5, "(INT32)"),
        ("INT32", None, "(INT32)"),
        ("INT32", math.nan, "(INT32)"),
        ("INT32", [1], "(INT32)"),
        ("FP64", {"a": 1}, "(FP64)"),
    ],
)
def test_wrong_value_is_reported_with_its_place(datatype: str, value: Any, words: str) -> None:
    good = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
    error = refused(datatype, [2, 3], [good] * 4 + [value, good])
    assert words in error.message
    assert error.message.startswith("column 'x', row 1 at [1] is ")
    assert (error.details["row"], error.details["path"]) == (1, "[1]")


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ([2], [1.0], "has 1 values, expected 2"),
        ([2], [1.0, 2.0, 3.0], "has 3 values, expected 2"),
        ([2], [], "has 0 values"),
        ([2, 2], [[1.0, 2.0, 3.0, 4.0]], "has the shape [1, 4]"),
        ([4], [[1.0, 2.0], [3.0, 4.0]], "has the shape [2, 2]"),
        ([1, 2], [[[1.0], [2.0]]], "has the shape [1, 2, 1]"),
        ([2**62, 4], [1.0], "expected 18446744073709551616 values"),
        ([1], 1.0, "is 1.0, expected a list"),
        ([1], "1.0", "expected a list"),
        ([1], None, "is null, expected a list"),
        ([1], {"0": 1.0}, "expected a list"),
        ([2, 2], [[1.0, 2.0], [3.0]], "row 1"),
        ([2, 2], [[1.0, 2.0], 3.0], "row 1"),
        ([], [1.0], "no dimensions"),
        ([], ["x"], "no dimensions"),
        ([0], [1.0], "1 values, expected 0"),
        ([1, 0], [[1.0]], "the shape [1, 1], expected 0"),
        ([0, 2**62, 2**62], [], "no values"),
        ([2**40, 0], [], "no values"),
    ],
)
def test_wrong_shape_is_reported(shape: list[int], data: Any, words: str) -> None:
    error = refused("FP64", shape, data, name="price")
    assert words in error.message
    assert "'price'" in error.message


def test_list_beside_a_value_is_reported_with_its_place() -> None:
    assert "row 1" in refused("FP64", [2], [1.0, [2.0]]).message


def test_bf16_has_no_json_form() -> None:
    error = refused("BF16", [1], [1.0])
    assert "send it as binary data" in error.message
    assert isinstance(error, InvalidInput)
