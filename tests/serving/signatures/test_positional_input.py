from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.serving.rows import Layout
from tests.serving.signatures.specs import column, columns, lists, refused

SIGNATURE = columns(column("double"), column("long"))


@pytest.mark.parametrize(
    ("form", "value", "names"),
    [
        ("records", [{"y": 1.5, "x": 2}], ("y", "x")),
        ("records", [{"1": 1.5, "0": 2}], ("1", "0")),
        ("instances", [{"y": 1.5, "x": 2}], ("y", "x")),
        ("instances", [[1.5, 2]], (0, 1)),
        ("inputs", {"y": [1.5], "x": [2]}, ("y", "x")),
        ("inputs", [[1.5, 2.0]], (0, 1)),
        ("columns", {7: [1.5], "x": [2]}, (7, "x")),
        ("tensors", {"y": np.array([1.5]), "x": np.array([2])}, (0, 1)),
        ("tensors", {"1": np.array([2]), "0": np.array([1.5])}, (0, 1)),
        ("tensors", {"any": np.array([[1.5, 2.0]])}, (0, 1)),
    ],
)
def test_columns_match_by_position(form: Any, value: Any, names: tuple[Any, ...]) -> None:
    rows = SIGNATURE.rows(form, value)
    assert lists(rows) == [[1.5], [2]]
    assert rows.layout == Layout("columns", names, ("float64", "int64"), ((), ()))


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        (
            "records",
            [{"a": 1.5}],
            "the input has 1 columns: 'a'; the model takes 2 without names, in this order: double",
        ),
        ("records", [], "the input has 0 columns"),
        ("columns", {"a": [1], "b": [2], "c": [3]}, "3 columns"),
        ("records", [{"a": 1.5, "b": 2}, {"a": 1.5}], "row 1 lacks 'b'"),
        ("tensors", {"a": np.ones(1)}, "lacks '0', '1'"),
        ("inputs", {"a": ["x"], "b": [1]}, "column '0', row 0 is 'x'"),
    ],
)
def test_other_widths_and_types_are_refused(form: Any, value: Any, words: str) -> None:
    assert words in refused(lambda: SIGNATURE.rows(form, value)).message


def test_one_column_takes_any_name() -> None:
    signature = columns(column("string"))
    assert signature.rows("tensors", {"q": np.array([["a"]], object)}).layout.names == (0,)
    assert signature.rows("records", [{"q": "a"}]).layout.names == ("q",)
