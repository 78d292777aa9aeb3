from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.serving.rows import Layout
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import column, refused

THING = column("object", properties={"a": {"type": "long", "required": True}})


def hinted(spec: dict[str, Any]) -> Signature:
    return Signature.compile([spec], hinted=True)


@pytest.mark.parametrize("form", ["records", "instances", "inputs"])
def test_values_pass_as_they_are(form: Any) -> None:
    values: list[Any] = [{"a": "x", "extra": [1]}, {}, 3]
    rows = hinted(THING).rows(form, values)
    assert (rows.columns, rows.count) == ((values,), 3)
    assert rows.layout == Layout("list", (), ("object",), ((),))


def test_tables_are_left_to_mlflow() -> None:
    rows = hinted(column("string")).rows("columns", {"q": ["a"]})
    assert rows.layout == Layout("columns", ("q",), ("object",), ((),))


@pytest.mark.parametrize(
    ("spec", "tensors", "values"),
    [
        (column("string"), {"x": [b"a", "b"]}, ["a", "b"]),
        (column("binary"), {"x": [b"\xff"]}, [b"\xff"]),
        (column("long"), {"x": [1, 2]}, [1, 2]),
        (THING, {"x": [b'{"a": 1}']}, [{"a": 1}]),
        (THING, {"a": [1, 2]}, [{"a": 1}, {"a": 2}]),
        (THING, {"a": [1], "b": [b"x"]}, [{"a": 1, "b": "x"}]),
        (column("array", items={"type": "double"}), {"x": [[1.5, 2.0]]}, [[1.5, 2.0]]),
    ],
)
def test_tensors_are_values_or_objects(spec: dict[str, Any], tensors: dict[str, Any], values: list[Any]) -> None:
    arrays = {
        name: np.array(array, object if isinstance(array[0], str | bytes) else None) for name, array in tensors.items()
    }
    assert hinted(spec).rows("tensors", arrays).columns == (values,)


def test_other_forms_are_refused() -> None:
    assert "expected a list of values" in refused(lambda: hinted(THING).rows("inputs", {"a": 1})).message
    refused(lambda: hinted(THING).rows("tensors", {"a": np.ones(1), "b": np.ones(2)}))
    refused(lambda: hinted(THING).rows("tensors", {"a": np.array(1)}))


def test_a_hint_reads_otherwise_than_a_schema() -> None:
    assert not hinted(THING).reads_as(Signature.compile([THING]))
