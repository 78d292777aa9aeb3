from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.errors import ModelUnavailable
from app.serving.rows import Layout, stack
from app.serving.signatures.signature import Form, Signature
from tests.serving.signatures.specs import ABC, ROW, column, columns, one, read, refused


def test_describes_its_columns() -> None:
    signature = Signature.compile(
        [column("double", "a"), column("array", "b", required=False, items={"type": "string"})],
        [column("double")],
        [{"name": "top", "type": "long", "default": 3, "shape": None}],
    )
    assert [(c.name, c.type, c.required, c.dtype) for c in signature.columns] == [
        ("a", "double", True, "float64"),
        ("b", "array(string)", False, "object"),
    ]
    assert signature.required_columns == ("a",)
    assert signature.param_names == ("top",)
    assert not signature.is_tensor
    assert signature.outputs == ({"type": "double", "required": True},)


@pytest.mark.parametrize("kind", ["vector", "complex"])
def test_unknown_type_makes_the_model_unavailable(kind: str) -> None:
    with pytest.raises(ModelUnavailable):
        one(kind)


def test_values_are_kept_in_the_order_of_the_signature() -> None:
    rows = ABC.rows("records", [{"c": "z", "b": 2, "a": 1.5}, {"a": 2.5, "c": "y", "b": 3}])
    assert rows.layout == Layout("columns", ("a", "b", "c"), ("float64", "int64", "object"), ((), (), ()))
    assert rows.columns == ([1.5, 2.5], [2, 3], ["z", "y"])
    assert rows.count == 2


def test_every_form_reads_the_same_rows() -> None:
    expected = ABC.rows("records", [ROW, ROW])
    assert ABC.rows("columns", {"b": [2, 2], "a": [1.5, 1.5], "c": ["z", "z"]}) == expected
    assert ABC.rows("inputs", {"b": [2, 2], "a": [1.5, 1.5], "c": ["z", "z"]}) == expected
    assert ABC.rows("inputs", [ROW, ROW]) == expected
    assert ABC.rows("instances", [ROW, ROW]) == expected
    assert ABC.rows("instances", [[1.5, 2, "z"], [1.5, 2, "z"]]) == expected


def test_single_values_are_one_row() -> None:
    assert ABC.rows("columns", ROW) == ABC.rows("records", [ROW])
    assert ABC.rows("inputs", ROW) == ABC.rows("records", [ROW])


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_single_column_accepts_bare_values(form: Form) -> None:
    expected = one("string").rows("records", [{"x": "a"}, {"x": "b"}])
    assert one("string").rows(form, ["a", "b"]) == expected
    assert one("string").rows(form, [["a"], ["b"]]) == expected
    assert one("string").rows("inputs", "a").columns == (["a"],)


def test_inputs_of_list_columns_are_one_row_if_possible() -> None:
    signature = columns(column("long", "id"), column("array", "v", items={"type": "double"}))
    row = signature.rows("inputs", {"id": 1, "v": [1.0, 2.0]})
    assert (row.count, row.columns) == (1, ([1], [[1.0, 2.0]]))
    rows = signature.rows("inputs", {"id": [1, 2], "v": [[1.0], [2.0]]})
    assert (rows.count, rows.columns) == (2, ([1, 2], [[1.0], [2.0]]))


def test_arrays_of_the_right_dtype_are_not_copied() -> None:
    given_array = np.array([1.0, 2.0])
    rows = one("double").rows("columns", {"x": given_array})
    assert rows.columns[0] is given_array
    cast = one("double").rows("columns", {"x": np.array([1, 2], "int32")}).columns[0]
    assert (np.asarray(cast).dtype.name, list(cast)) == ("float64", [1.0, 2.0])
    assert one("string").rows("columns", {"x": np.array(["a"])}).columns == (["a"],)
    assert stack([one("long").rows("columns", {"x": np.array([[1], [2]])})]).arrays[0].tolist() == [1, 2]


def test_numbered_columns_match_by_name() -> None:
    assert columns(column("double", 7), column("long", 3)).rows("instances", [[1.5, 2]]).layout.names == (7, 3)


def test_rows_of_an_unnamed_object_column_are_its_values() -> None:
    signature = columns(column("object", properties={"a": {"type": "long", "required": True}}))
    for rows in (
        signature.rows("records", [{"a": 1}, {"a": 2.0}]),
        signature.rows("instances", [{"a": 1}, {"a": 2.0}]),
        signature.rows("inputs", [{"a": 1}, {"a": 2.0}]),
    ):
        assert rows.columns == ([{"a": 1}, {"a": 2}],)
        assert rows.layout.names == (0,)
    assert refused(lambda: signature.rows("records", [{"a": 1}, {"b": 1}])).details["row"] == 1


def test_layouts_are_reused() -> None:
    assert ABC.rows("records", [ROW]).layout is ABC.rows("records", [ROW, ROW]).layout


def test_optional_columns_may_be_left_out() -> None:
    signature = columns(column("double", "a"), column("string", "b", required=False), column("long", "c"))
    rows = signature.rows("records", [{"c": 1, "a": 2.0}])
    assert rows.layout.names == ("a", "c")
    assert rows.columns == ([2.0], [1])
    assert rows == signature.rows("columns", {"c": [1], "a": [2.0]})
    none = one("double", required=False).rows("records", [{}, {}])
    assert (none.layout.names, none.columns, none.count, none.layout.alone) == ((), (), 2, True)
    mixed = signature.rows("records", [{"c": 1, "a": 2.0}, {"c": 1, "a": 2.0, "b": "x"}])
    assert mixed.columns == ([2.0, 2.0], [None, "x"], [1, 1])


def test_null_in_an_optional_boolean_changes_the_layout() -> None:
    signature = one("boolean", required=False)
    assert read(signature, True, False).dtype == bool
    assert read(signature, True, None).tolist() == [True, None]
    layouts = {signature.rows("records", [{"x": value}]).layout for value in (True, None)}
    assert {layout.dtypes for layout in layouts} == {("bool",), ("object",)}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ([{"a": 1.0, "c": "x"}], {"column": "b", "row": 0, "missing": ["b"]}),
        ([ROW, {"a": 1.0}], {"column": "b", "row": 1, "missing": ["b", "c"]}),
        ([ROW, {**ROW, "bb": 1}], {"column": "bb", "row": 1, "extra": ["bb"]}),
        ([ROW, [1, 2, 3]], {"row": 1, "expected": "object"}),
        ([ROW, "abc"], {"row": 1, "expected": "object"}),
        ([ROW, None], {"row": 1}),
        ([{}], {"missing": ["a", "b", "c"]}),
        ([], {}),
        ("abc", {}),
        (None, {}),
        ([{**ROW, "a": "1.5"}], {"column": "a", "row": 0, "expected": "a number (double)"}),
        ([ROW, {**ROW, "b": 2.5}], {"column": "b", "row": 1}),
        ([ROW, {**ROW, "c": 3}], {"column": "c", "row": 1, "expected": "a string"}),
    ],
)
def test_wrong_records_are_reported_with_column_and_row(payload: Any, expected: dict[str, Any]) -> None:
    details = refused(lambda: ABC.rows("records", payload)).details
    assert {key: details.get(key) for key in expected} == expected


def test_misspelled_column_gets_a_suggestion() -> None:
    error = refused(lambda: columns(column("double", "price")).rows("records", [{"prise": 1.0}]))
    assert "lacks 'price'" in error.message
    assert "did you mean 'price'?" in error.message


def test_messages_stay_short() -> None:
    many = columns(*(column("double", f"column_{index}") for index in range(500)))
    error = refused(lambda: many.rows("records", [{f"other_{index}": 1 for index in range(500)}]))
    assert "and 480 more" in error.message
    assert len(error.details["missing"]) == 20
    long = refused(lambda: one("double").rows("records", [{"x": "y" * 10**6}]))
    assert len(long.message) < 150


@pytest.mark.parametrize(
    "payload",
    [{"a": [1.0], "b": [1, 2], "c": ["x"]}, {"a": 1.0, "b": [1], "c": ["x"]}, {}, []],
)
def test_uneven_or_missing_columns_are_refused(payload: Any) -> None:
    refused(lambda: ABC.rows("columns", payload))


@pytest.mark.parametrize("kind", ["double", "long", "string", "boolean", "datetime", "binary", "any"])
@pytest.mark.parametrize("required", [True, False])
def test_a_table_without_rows_keeps_its_dtypes(kind: str, required: bool) -> None:
    signature = one(kind, required=required)
    rows = signature.rows("columns", {"x": []})
    dtypes = {"double": "float64", "long": "int64", "boolean": "bool", "datetime": "datetime64[ns]"}
    assert stack([rows]).arrays[0].dtype == np.dtype(dtypes.get(kind, "object"))
    assert (rows.count, rows.layout.alone, rows.nbytes) == (0, True, 0)
    if kind == "any":  # whether [] is no row, or one row that holds [], is open
        refused(lambda: signature.rows("instances", []))
    else:
        assert signature.rows("instances", []).layout == rows.layout


@pytest.mark.parametrize("form", ["records", "instances", "inputs"])
def test_a_list_without_rows_lacks_the_columns(form: Any) -> None:
    assert "no rows; send at least one, with the columns 'a', 'b', 'c'" in refused(lambda: ABC.rows(form, [])).message


@pytest.mark.parametrize("payload", [[[1.0, 2]], [[1.0, 2, "x", 4]], [1.0], [ROW, [1.0, 2, "x"]], []])
def test_instances_of_another_form_are_refused(payload: Any) -> None:
    refused(lambda: ABC.rows("instances", payload))
    refused(lambda: ABC.rows("inputs", payload))
