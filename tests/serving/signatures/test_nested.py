from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.serving.rows import stack
from tests.serving.signatures.specs import column, columns, refused


class TestNested:
    SIGNATURE = columns(
        column("array", "sizes", items={"type": "integer"}),
        column("array", "grid", required=False, items={"type": "array", "items": {"type": "double"}}),
        column(
            "object",
            "who",
            required=False,
            properties={
                "name": {"type": "string", "required": True},
                "age": {"type": "long", "required": False},
                "born": {"type": "datetime", "required": False},
            },
        ),
        column("map", "weights", required=False, values={"type": "double"}),
        column("any", "rest", required=False),
    )

    def read(self, **row: Any) -> dict[str, Any]:
        batch = stack([self.SIGNATURE.rows("records", [{"sizes": [1], **row}])])
        values = [array[0] for array in batch.arrays]
        return dict(zip(map(str, batch.layout.names), values, strict=True))

    def test_nested_narrow_types_are_numpys_own(self) -> None:
        # pyfunc refuses Python's numbers there, and makes integers of datetimes.
        values = self.read(sizes=[1, 2.0], who={"name": "a", "born": "2024-01-01T00:00:00Z"})
        assert values["sizes"].dtype == "int32"
        assert values["sizes"].tolist() == [1, 2]
        assert values["who"]["born"] == np.datetime64("2024-01-01", "ns")

    def test_values_are_read_at_any_depth(self) -> None:
        values = self.read(grid=[[1, None], []], who={"name": "a", "age": None}, weights={"k": 1}, rest={"a": [None]})
        assert repr(values["grid"]) == "[[1.0, nan], []]"
        assert values["who"] == {"name": "a", "age": None}
        assert values["weights"] == {"k": 1.0}
        assert values["rest"] == {"a": [None]}

    def test_optional_columns_accept_null_and_empty_objects(self) -> None:
        values = self.read(grid=None, who=None, weights=None, rest=None)
        assert [values[name] for name in ("grid", "who", "weights", "rest")] == [None] * 4
        assert self.read(who={}, weights={})["who"] == {}

    def test_values_are_copied(self) -> None:
        sent = {"name": "a", "age": 1.0}
        assert self.read(who=sent)["who"] is not sent
        assert sent == {"name": "a", "age": 1.0}

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [([1, 2], "int64"), ([2**63], "uint64"), ([1, None], "float64"), ([True], "bool"), ([1, "a"], "object")],
    )
    def test_any_columns_get_the_dtype_of_the_request(self, values: list[Any], dtype: str) -> None:
        rows = columns(column("any", "x")).rows("records", [{"x": value} for value in values])
        assert rows.layout.dtypes == (dtype,)

    @pytest.mark.parametrize(
        ("row", "name", "path"),
        [
            ({"sizes": [1, "2"]}, "sizes", "[1]"),
            ({"sizes": [1, None]}, "sizes", "[1]"),
            ({"sizes": [2**31]}, "sizes", "[0]"),
            ({"sizes": 1}, "sizes", ""),
            ({"sizes": None}, "sizes", ""),
            ({"grid": [[1.0], [1.0, "x"]]}, "grid", "[1][1]"),
            ({"grid": [1.0]}, "grid", "[0]"),
            ({"who": {"age": 1}}, "who", ""),
            ({"who": {"name": "a", "agee": 1}}, "who", ""),
            ({"who": {"name": 1}}, "who", ".name"),
            ({"who": []}, "who", ""),
            ({"weights": {"a": "b"}}, "weights", "['a']"),
            ({"weights": [1]}, "weights", ""),
        ],
    )
    def test_place_inside_a_value_is_reported(self, row: dict[str, Any], name: str, path: str) -> None:
        records = [{"sizes": [1]}, {"sizes": [1], **row}]
        details = refused(lambda: self.SIGNATURE.rows("records", records)).details
        assert (details["column"], details["row"], details.get("path", "")) == (name, 1, path)
