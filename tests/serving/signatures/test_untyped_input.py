from __future__ import annotations

from typing import Any

import pytest

from app.serving.rows import Layout
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import refused


class TestUntyped:
    SIGNATURE = Signature.compile(None)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([1, 2], "int64"),
            ([2**63, 1], "uint64"),
            ([1, 2.5], "float64"),
            ([1, None], "float64"),
            ([True, False], "bool"),
            ([True, None], "object"),
            ([True, 1], "object"),
            (["a", None], "object"),
            ([None], "object"),
            ([2**64], "object"),
            ([[1], [2]], "object"),
        ],
    )
    def test_records_become_columns_of_inferred_dtypes(self, values: list[Any], dtype: str) -> None:
        rows = self.SIGNATURE.rows("records", [{"x": value, "y": 1} for value in values])
        assert rows.layout == Layout("columns", ("x", "y"), (dtype, "int64"), ((), ()))
        assert self.SIGNATURE.rows("columns", {"x": values, "y": [1] * len(values)}).layout == rows.layout

    @pytest.mark.parametrize(
        ("values", "dtype", "shape"),
        [
            ([[1, 2], [3, 4]], "int64", (2,)),
            ([[1, 2.5]], "float64", (2,)),
            ([1, None], "float64", ()),
            ([[[True]]], "bool", (1, 1)),
            (["a", "bc"], "str", ()),
            ([["a", 1]], "object", (2,)),
        ],
    )
    def test_lists_are_one_array(self, values: list[Any], dtype: str, shape: tuple[int, ...]) -> None:
        for rows in (self.SIGNATURE.rows("instances", values), self.SIGNATURE.rows("inputs", values)):
            assert rows.layout == Layout("tensor", (), (dtype,), (shape,))

    def test_objects_of_lists_are_named_arrays(self) -> None:
        for rows in (
            self.SIGNATURE.rows("instances", [{"x": [1, 2], "y": 1.5}, {"x": [3, 4], "y": 2}]),
            self.SIGNATURE.rows("inputs", {"x": [[1, 2], [3, 4]], "y": [1.5, 2]}),
        ):
            assert rows.layout == Layout("tensors", ("x", "y"), ("int64", "float64"), ((2,), ()))
        assert self.SIGNATURE.rows("inputs", {"x": [1, 2]}).layout.kind == "columns"
        assert self.SIGNATURE.rows("instances", [{"x": 1}]).layout.kind == "columns"

    @pytest.mark.parametrize(
        "payload",
        [[], [{}], [{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 1}], [{"a": 1}, 1], [[1], [1, 2]], [[1], 2]],
    )
    def test_rows_that_differ_are_refused(self, payload: Any) -> None:
        refused(lambda: self.SIGNATURE.rows("instances", payload))

    def test_columns_that_differ_in_length_are_refused(self) -> None:
        refused(lambda: self.SIGNATURE.rows("columns", {"a": [1], "b": [1, 2]}))
        refused(lambda: self.SIGNATURE.rows("inputs", {"a": [[1]], "b": [1, 2]}))
