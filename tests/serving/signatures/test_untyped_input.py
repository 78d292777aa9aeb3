from __future__ import annotations

import math
from typing import Any

import pytest

from app.errors import TooLarge
from app.serving.rows import Layout
from app.serving.signatures import tensors
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import refused


class TestUntyped:
    SIGNATURE = Signature.compile(None)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([1, 2], "int64"),
            ([2**63, 1], "uint64"),
            ([2**63, -1], "object"),
            ([1, 2.5], "float64"),
            ([1, None], "float64"),
            ([2**63, -1, 0.5], "float64"),
            ([True, False], "bool"),
            ([True, None], "object"),
            ([True, 1], "object"),
            (["a", None], "object"),
            ([None], "object"),
            ([2**64], "object"),
            ([2**64, 0.5], "object"),
            ([2**64, None], "object"),
            ([[1], [2]], "object"),
        ],
    )
    def test_tables_have_the_dtypes_of_pandas(self, values: list[Any], dtype: str) -> None:
        rows = self.SIGNATURE.rows("records", [{"x": value, "y": 1} for value in values])
        assert rows.layout == Layout("columns", ("x", "y"), (dtype, "int64"), ((), ()))
        assert self.SIGNATURE.rows("columns", {"x": values, "y": [1] * len(values)}).layout == rows.layout

    def test_what_an_object_lacks_is_missing(self) -> None:
        rows = self.SIGNATURE.rows("records", [{"b": 1}, {"a": "x", "b": 2}])
        assert rows.layout == Layout("columns", ("b", "a"), ("int64", "object"), ((), ()))
        assert math.isnan(rows.columns[1][0])

    def test_rows_without_names_are_numbered_columns(self) -> None:
        assert self.SIGNATURE.rows("records", [[1, "x"]]).layout.names == (0, 1)
        assert self.SIGNATURE.rows("records", [1, 2]).layout == Layout("columns", (0,), ("int64",), ((),))

    @pytest.mark.parametrize("records", [[], [{}, {}]])
    def test_a_table_may_have_no_columns(self, records: list[Any]) -> None:
        rows = self.SIGNATURE.rows("records", records)
        assert (rows.layout, rows.count) == (Layout("columns", (), (), (), alone=True), len(records))

    def test_columns_without_rows_hold_objects(self) -> None:
        layout = self.SIGNATURE.rows("columns", {"a": []}).layout
        assert layout == Layout("columns", ("a",), ("object",), ((),), alone=True)

    @pytest.mark.parametrize(
        ("values", "dtype", "shape"),
        [
            ([[1, 2], [3, 4]], "int64", (2,)),
            ([[1, 2.5]], "float64", (2,)),
            ([1, None], "object", ()),
            ([2**53 + 1, 2], "int64", ()),
            ([2**63, -1], "float64", ()),
            ([True, 2], "int64", ()),
            ([[[True]]], "bool", (1, 1)),
            (["a", "bc"], "str", ()),
            ([["a", 1]], "str", (2,)),
        ],
    )
    def test_lists_are_one_array_of_numpys_dtype(self, values: list[Any], dtype: str, shape: tuple[int, ...]) -> None:
        for rows in (self.SIGNATURE.rows("instances", values), self.SIGNATURE.rows("inputs", values)):
            assert rows.layout == Layout("tensor", (), (dtype,), (shape,))

    def test_names_make_a_dict_of_arrays(self) -> None:
        for rows in (
            self.SIGNATURE.rows("instances", [{"x": [1, 2], "y": 1.5}, {"x": [3, 4], "y": 2}]),
            self.SIGNATURE.rows("inputs", {"x": [[1, 2], [3, 4]], "y": [1.5, 2]}),
        ):
            assert rows.layout == Layout("tensors", ("x", "y"), ("int64", "float64"), ((2,), ()))
        assert self.SIGNATURE.rows("inputs", {"x": [1, 2]}).layout.kind == "tensors"
        assert self.SIGNATURE.rows("instances", [{"x": 1}]).layout.kind == "tensors"

    @pytest.mark.parametrize(
        "inputs", [{"a": [1, 2], "b": [1]}, {"a": 1, "b": "x"}, {"a": [1], "b": 2}, {"a": []}, {}, 5]
    )
    def test_arrays_without_common_rows_stay_alone(self, inputs: Any) -> None:
        assert self.SIGNATURE.rows("inputs", inputs).layout.alone

    def test_a_list_of_objects_stays_one(self) -> None:
        rows = self.SIGNATURE.rows("inputs", [{"a": 1}, {"b": [1, 2]}])
        assert rows.layout == Layout("list", (), ("object",), ((),))
        assert repr(rows.columns) == "([{'a': array(1)}, {'b': array([1, 2])}],)"
        assert self.SIGNATURE.rows("inputs", []).layout == Layout("list", (), ("object",), ((),), alone=True)

    @pytest.mark.parametrize("form", ["instances", "records"])
    @pytest.mark.parametrize("payload", [[{"a": 1}, 1], [[1], [1, 2]], [[1], 2]])
    def test_rows_that_differ_in_form_are_refused(self, form: Any, payload: Any) -> None:
        refused(lambda: self.SIGNATURE.rows(form, payload))

    @pytest.mark.parametrize("payload", [[{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 1}]])
    def test_instances_with_different_names_are_refused(self, payload: Any) -> None:
        refused(lambda: self.SIGNATURE.rows("instances", payload))

    def test_columns_that_differ_in_length_are_refused(self) -> None:
        refused(lambda: self.SIGNATURE.rows("columns", {"a": [1], "b": [1, 2]}))


class TestBounds:
    SIGNATURE = Signature.compile(None)

    def test_rows_with_names_of_their_own_are_refused(self) -> None:
        with pytest.raises(TooLarge, match="rows with the same names"):
            self.SIGNATURE.rows("records", [{f"k{row}": 1} for row in range(1100)])

    def test_too_many_names_are_refused(self) -> None:
        with pytest.raises(TooLarge, match="65537 different names; at most 65536 are allowed"):
            self.SIGNATURE.rows("records", [dict.fromkeys(map(str, range(2**16 + 1)), 1)])

    def test_wide_tables_without_gaps_are_read(self) -> None:
        rows = self.SIGNATURE.rows("records", [dict.fromkeys(map(str, range(1100)), 1)] * 1100)
        assert (len(rows.columns), rows.count) == (1100, 1100)

    @pytest.mark.parametrize("as_list", [False, True])
    def test_text_tensors_of_a_request_are_bounded_together(
        self, as_list: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensors, "MAX_CHARACTERS", 1000)
        named = {f"t{index}": ["x" * 20, *[""] * 19] for index in range(3)}
        message = "tensor 't2' has 20 values, each of which takes the 20 characters of the longest, beside 800 char"
        with pytest.raises(TooLarge, match=message):
            self.SIGNATURE.rows("inputs", [{name: one} for name, one in named.items()] if as_list else named)
        del named["t2"]
        assert self.SIGNATURE.rows("inputs", [named] if as_list else named).nbytes
