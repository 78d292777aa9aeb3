from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from app.errors import ModelUnavailable, TooLarge
from app.serving.rows import Layout, stack
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import lists, refused, tensor


def test_describes_its_tensors() -> None:
    unnamed = Signature.compile([tensor("float32", -1, 3)])
    assert unnamed.is_tensor
    assert unnamed.columns == ()
    assert unnamed.tensor is not None
    assert (unnamed.tensor.dtype, unnamed.tensor.shape) == ("float32", (-1, 3))
    named = Signature.compile([tensor("str", -1, name="s")])
    assert named.required_columns == ("s",)
    assert (named.columns[0].type, named.tensor) == ("tensor(str)", None)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float64", [[1, 2.5], [math.nan, math.inf]]),
        ("float32", [[1, 2.5], [0.1, 1e38]]),
        ("float16", [[1, 2.5], [0.1, 65504]]),
        ("int8", [[1, -128], [127, 3.0]]),
        ("uint64", [[2**64 - 1, 0], [1, 2]]),
        ("bool", [[True, False], [True, True]]),
        ("str", [["a", "bcd"], ["", "å"]]),
        ("object", [["a", 1], [None, {"x": 1}]]),
    ],
)
def test_nested_lists_become_the_array_of_numpy(dtype: str, values: list[Any]) -> None:
    signature = Signature.compile([tensor(dtype, -1, 2)])
    rows = signature.rows("instances", values)
    expected = np.array(values, dtype=dtype)
    assert rows.layout == Layout("tensor", (), (dtype,), ((2,),))
    assert repr(stack([rows]).arrays[0]) == repr(expected)
    assert repr(signature.rows("inputs", values).columns[0]) == repr(expected)
    assert repr(signature.rows("columns", {"any": expected}).columns[0]) == repr(expected)


def test_binary_and_datetime_tensors() -> None:
    assert lists(Signature.compile([tensor("bytes", -1)]).rows("inputs", ["YWI="])) == [[b"ab"]]
    moments = Signature.compile([tensor("datetime64[us]", -1)]).rows("inputs", ["2024-01-01T00:00:00.000001"])
    assert moments.layout.dtypes == ("datetime64[us]",)
    assert str(moments.columns[0][0]) == "2024-01-01T00:00:00.000001"


def test_arrays_of_the_right_dtype_are_not_copied() -> None:
    array = np.ones((2, 3), "float32")
    rows = Signature.compile([tensor("float32", -1, 3, name="x")]).rows("columns", {"x": array})
    assert np.shares_memory(np.asarray(rows.columns[0]), array)


def test_null_is_nan_among_floats() -> None:
    rows = Signature.compile([tensor("float32", -1, 2)]).rows("instances", [[None, 1.0]])
    assert repr(lists(rows)) == "[[[nan, 1.0]]]"


def test_free_dimensions_are_part_of_the_layout() -> None:
    signature = Signature.compile([tensor("float64", -1, -1)])
    assert signature.rows("instances", [[1.0, 2.0]]).layout.shapes == ((2,),)
    assert signature.rows("instances", [[1.0, 2.0, 3.0]]).layout.shapes == ((3,),)
    assert signature.rows("instances", [[]]).layout.shapes == ((0,),)


def test_flat_rows_take_the_fixed_shape() -> None:
    signature = Signature.compile([tensor("int64", -1, 2, 2)])
    assert lists(signature.rows("instances", [[1, 2, 3, 4]])) == [[[[1, 2], [3, 4]]]]
    column_vector = Signature.compile([tensor("int64", -1, 1)])
    assert lists(column_vector.rows("instances", [1, 2])) == [[[1], [2]]]


def test_named_tensors_in_every_form() -> None:
    signature = Signature.compile([tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s")])
    rows = signature.rows("instances", [{"s": "a", "x": [1, 2]}, {"x": [3, 4], "s": "b"}])
    assert rows.layout == Layout("tensors", ("x", "s"), ("float64", "str"), ((2,), ()))
    assert lists(rows) == [[[1.0, 2.0], [3.0, 4.0]], ["a", "b"]]
    again = signature.rows("inputs", {"s": ["a", "b"], "x": [[1, 2], [3, 4]]})
    assert again.layout == rows.layout
    assert repr(again.columns) == repr(rows.columns)


def test_first_row_decides_the_order_of_an_unnamed_tensor() -> None:
    signature = Signature.compile([tensor("float64", -1, 2)])
    expected = [[1.0, 2.0], [3.0, 4.0]]
    for rows in (
        signature.rows("records", [{"p": 1, "q": 2}, {"q": 4, "p": 3}]),
        signature.rows("columns", {"p": [1, 3], "q": np.array([2, 4])}),
    ):
        assert lists(rows) == [expected]
    assert lists(signature.rows("columns", {"p": 1, "q": 2})) == [[[1.0, 2.0]]]
    assert lists(Signature.compile([tensor("float64", -1, 1)]).rows("records", [{"p": 1}])) == [[[1.0]]]
    assert lists(Signature.compile([tensor("float64", -1)]).rows("columns", {"p": 1})) == [[1.0]]


def test_fixed_number_of_rows_is_enforced() -> None:
    signature = Signature.compile([tensor("float64", 2, 1)])
    assert signature.fixed_rows == 2
    assert signature.rows("instances", [[1], [2]]).count == 2
    refused(lambda: signature.rows("instances", [[1]]))


@pytest.mark.parametrize(
    ("dtype", "values", "row", "path"),
    [
        ("float32", [[1.0, 2.0], [1.0, "x"]], 1, "[1]"),
        ("float32", [[1.0, True]], 0, "[1]"),
        ("float32", [[1.0, 1e39]], 0, "[1]"),
        ("int64", [[1, 2], [1.5, 2]], 1, "[0]"),
        ("int64", [[1, None]], 0, "[1]"),
        ("int64", [[1, math.nan]], 0, "[1]"),
        ("uint8", [[1, -1]], 0, "[1]"),
        ("int32", [[1, 2**31]], 0, "[1]"),
        ("bool", [[True, 1]], 0, "[1]"),
        ("str", [["a", 1]], 0, "[1]"),
        ("float64", [[1.0, 2.0], [1.0]], 1, ""),
        ("float64", [[1.0], [1.0, 2.0]], 0, ""),
        ("float64", [[1.0, 2.0], 3.0], 1, ""),
        ("float64", [3.0, [1.0, 2.0]], 0, ""),
    ],
)
def test_wrong_element_is_reported_with_its_place(dtype: str, values: Any, row: int, path: str) -> None:
    details = refused(lambda: Signature.compile([tensor(dtype, -1, 2)]).rows("instances", values)).details
    assert (details["row"], details.get("path", "")) == (row, path)


@pytest.mark.parametrize("values", [[], [[]], [1.0], [[1.0]], [[1.0, 2.0, 3.0]], [[[1.0, 2.0]]], 5, None])
def test_wrong_shape_is_refused(values: Any) -> None:
    refused(lambda: Signature.compile([tensor("float64", -1, 2)]).rows("inputs", values))


@pytest.mark.parametrize(
    "payload",
    [
        {"x": [[1, 2]]},
        {"x": [[1, 2]], "s": ["a"], "t": [1]},
        {"x": [[1, 2]], "s": "a"},
        {"x": [], "s": []},
        [[1, 2]],
        [{"x": [1, 2]}],
        [{"x": [1, 2], "s": "a"}, [1]],
    ],
)
def test_named_tensors_must_be_complete(payload: Any) -> None:
    signature = Signature.compile([tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s")])
    refused(lambda: signature.rows("inputs", payload))


def test_named_tensors_may_differ_in_length() -> None:
    signature = Signature.compile([tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s")])
    rows = signature.rows("inputs", {"x": [[1, 2]], "s": ["a", "b"]})
    assert (lists(rows), rows.count, rows.layout.alone) == ([[[1.0, 2.0]], ["a", "b"]], 2, True)
    refused(lambda: signature.rows("columns", {"x": [[1, 2]], "s": "a"}))


@pytest.mark.parametrize("spec", [tensor("complex128", -1), tensor("float64"), tensor("nonsense", -1)])
def test_unsupported_tensors_make_the_model_unavailable(spec: dict[str, Any]) -> None:
    with pytest.raises(ModelUnavailable):
        Signature.compile([spec])


@pytest.mark.parametrize("specs", [[tensor("str", -1)], [tensor("bytes", -1)], None])
def test_one_long_text_does_not_widen_many(specs: list[dict[str, Any]] | None) -> None:
    signature = Signature.compile(specs)
    with pytest.raises(TooLarge, match=r"each of which takes the \d+ characters of the longest"):
        signature.rows("inputs", ["x" * 100_000] + ["abcd"] * 1000)
    for long in (100_000, 6000):
        assert signature.rows("inputs", ["x" * long]).layout.alone, "nor those of other callers in a batch"
    assert not signature.rows("inputs", ["x" * 1000]).layout.alone
