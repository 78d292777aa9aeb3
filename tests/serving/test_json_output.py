from __future__ import annotations

import base64
import json
import math
import pickle
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.mlflow.answers import mlflow_predictions
from app.errors import ModelFailed
from app.serving.json_depth import is_deeper, may_be_deeper
from app.serving.json_output import predictions
from app.serving.rows import Output


def unnamed(array: Any) -> Any:
    array = np.asarray(array)
    return predictions(Output("tensor", (), (array,), len(array)))


def objects(*values: Any) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return unnamed(array)


def test_form_follows_the_kind_of_output() -> None:
    arrays = (np.array([1, 2]), np.array([[0.5], [1.5]]))
    assert predictions(Output("tensor", (), arrays[:1], 2)) == [1, 2]
    assert predictions(Output("tensor", (), arrays[1:], 2)) == [[0.5], [1.5]]
    assert predictions(Output("tensors", ("a", "b"), arrays, 2)) == {"a": [1, 2], "b": [[0.5], [1.5]]}
    assert predictions(Output("tuple", ("output_0", "output_1"), arrays, 2)) == [[1, 2], [[0.5], [1.5]]]
    assert predictions(Output("series", ("y",), arrays[:1], 2)) == [1, 2]
    assert predictions(Output("value", (), (np.array([0.5]),), 1)) == 0.5
    assert predictions(Output("columns", ("a", "b"), arrays, 2)) == [{"a": 1, "b": [0.5]}, {"a": 2, "b": [1.5]}]


@given(st.lists(st.floats(width=64)))
def test_floats_keep_their_bits_and_nonfinite_is_null(values: list[float]) -> None:
    written = orjson.loads(orjson.dumps(unnamed(np.array(values, dtype="float64"))))
    assert repr(written) == repr([value if math.isfinite(value) else None for value in values])


@given(st.lists(st.floats(width=32), min_size=1))
def test_narrow_floats_are_widened_exactly(values: list[float]) -> None:
    answer = unnamed(np.array([values], dtype="float32"))
    assert repr(answer) == repr([[value if math.isfinite(value) else None for value in values]])


@pytest.mark.parametrize(("dtype", "value"), [("int64", -(2**63)), ("int64", 2**63 - 1), ("uint64", 2**64 - 1)])
def test_integers_lose_no_digit(dtype: str, value: int) -> None:
    assert orjson.dumps(unnamed(np.array([value], dtype=dtype))) == f"[{value}]".encode()
    assert orjson.dumps(objects(value)) == f"[{value}]".encode()


def test_booleans_and_text() -> None:
    answer = unnamed(np.array([[True, False]]))
    assert answer == [[True, False]]
    assert type(answer[0][0]) is bool
    assert unnamed(np.array(["a", "bc"])) == ["a", "bc"]


@pytest.mark.parametrize(
    ("moment", "unit", "text"),
    [
        ("2024-01-01T00:00:00", "ns", "2024-01-01T00:00:00"),
        ("2024-01-01T00:00:00.000000001", "ns", "2024-01-01T00:00:00.000000001"),
        ("2024-01-01T00:00:00.5", "ns", "2024-01-01T00:00:00.500000"),
        ("2024-01-01T00:00:00.123456", "us", "2024-01-01T00:00:00.123456"),
        ("2024-01-01T10:00:00", "s", "2024-01-01T10:00:00"),
        ("9999-01-01", "D", "9999-01-01"),
        ("NaT", "ns", None),
    ],
)
def test_datetimes_are_iso_8601(moment: str, unit: str, text: str | None) -> None:
    array = np.array([[moment]], dtype=f"datetime64[{unit}]")
    assert unnamed(array) == [[text]]
    assert objects(array[0, 0]) == [text]


def test_durations_are_seconds() -> None:
    assert unnamed(np.array([1500, "NaT"], dtype="timedelta64[ms]")) == [1.5, None]
    assert objects(timedelta(minutes=1), np.timedelta64(1, "h")) == [60.0, 3600.0]


def test_bytes_are_base64() -> None:
    assert unnamed(np.array([[b"ab"]])) == [[base64.b64encode(b"ab").decode()]]
    assert objects(b"\0", bytearray(b"a")) == ["AA==", "YQ=="]


class _NAType:
    """Stands for pandas' missing value, which the gateway must not need pandas for."""


_NAType.__name__ = "NAType"


class _NotATime:
    def isoformat(self) -> str:
        return "NaT"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        (np.float32("nan"), None),
        (np.float32(0.1), 0.10000000149011612),
        (np.int64(2**62), 2**62),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (2**64, str(2**64)),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), None),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (date(2024, 1, 1), "2024-01-01"),
        (_NAType(), None),
        (_NotATime(), None),
        ({"a": np.array([1.0, math.nan]), 2: (b"", {"x": np.array(3)})}, {"a": [1.0, None], "2": ["", {"x": 3}]}),
        ([[1], {2}], [[1], [2]]),
        (memoryview(b"ab"), [97, 98]),
    ],
)
def test_objects_become_json(value: Any, expected: Any) -> None:
    answer = objects(value, value)
    assert repr(answer) == repr([expected, expected])
    orjson.dumps(answer)


@pytest.mark.parametrize("array", [np.array([1j]), np.array([object()]), np.zeros(1, dtype="i4,f8")])
def test_values_without_a_json_form_are_a_model_failure(array: Any) -> None:
    with pytest.raises(ModelFailed):
        unnamed(array)


def test_pickled_and_split_output_reads_the_same() -> None:
    output = Output("columns", ("a", "b"), (np.array([1.5, math.nan, 2.5]), np.array(["x", "y", "z"], dtype=object)), 3)
    copied: Output = pickle.loads(pickle.dumps(output))
    pieces = [predictions(piece) for piece in copied.split([1, 2])]
    assert pieces == [[{"a": 1.5, "b": "x"}], [{"a": None, "b": "y"}, {"a": 2.5, "b": "z"}]]


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        (1, 0),
        ("[[[", 0),
        ([], 1),
        ({}, 1),
        ([1, "a", None], 1),
        ([[], 1, {"a": 1}], 2),
        ([1, {"a": [1], "b": 2}, []], 3),
        ({"a": {"b": {"c": [[]]}}, "d": []}, 5),
    ],
)
def test_depth_is_that_of_the_deepest_container(value: object, depth: int) -> None:
    assert [is_deeper(value, limit) for limit in range(7)] == [limit < depth for limit in range(7)]


@pytest.mark.parametrize("text", ["[[1], {}, [[2]]]", '{"a": {"b": [1, {"c": []}]}}', "1", "[]", '"x"', '[" ][ "]'])
def test_bracket_check_never_misses_deep_json(text: str) -> None:
    value = json.loads(text)
    for depth in range(7):
        assert may_be_deeper(text.encode(), depth) or not is_deeper(value, depth)
    assert not may_be_deeper(text.encode(), 5) or "][" in text


def test_an_array_without_dimensions_is_its_value() -> None:
    inner = np.empty((), dtype=object)
    inner[()] = {"b": np.array(1.5)}
    assert objects({"a": inner}, np.array(2)) == [{"a": {"b": 1.5}}, 2]
    array = np.empty(1, dtype=object)
    array[0] = {"a": inner}
    assert mlflow_predictions(Output("tensor", (), (array,), 1)) == [{"a": {"b": 1.5}}]
