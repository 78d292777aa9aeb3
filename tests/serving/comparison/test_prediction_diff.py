"""Differences between two answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from app.serving.comparison.prediction_diff import Disagreement, disagreement, mean_prediction
from app.serving.rows import Array, Output

NAN, INF = float("nan"), float("inf")


def output(*arrays: Array, names: tuple[str, ...] = ()) -> Output:
    return Output("columns" if names else "tensor", names, arrays, len(arrays[0]))


def close(number: float) -> Any:
    """Equal up to rounding."""
    return pytest.approx(number)


def objects(*values: object) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_numbers_have_differences_and_no_mismatch() -> None:
    found = disagreement(output(np.array([1.0, 2.0, 4.0])), output(np.array([1.0, 3.0, 0.0])))
    assert found is not None
    assert (found.rows, found.mismatched_rows, found.difference, found.largest) == (3, 0, 5 / 3, 4.0)
    assert found.relative == pytest.approx((0 + 1 / 3 + 1) / 3)


def test_numbers_of_other_types_are_compared_as_numbers() -> None:
    found = disagreement(output(np.array([1, 2])), output(np.array([1.0, 2.5], dtype=np.float32)))
    assert found == Disagreement(2, 0, 0.25, 0.5, close(0.1))


def test_whole_numbers_beside_fractions_are_numbers() -> None:
    mixed = output(objects(1, 2.5))
    assert disagreement(mixed, output(np.array([1, 2]))) == Disagreement(2, 0, 0.25, 0.5, close(0.1))
    assert mean_prediction(mixed) == 1.75
    assert mean_prediction(output(objects(1.5, 10**400))) is None


def test_series_of_other_names_and_values_are_compared() -> None:
    one, other = (Output("series", (name,), (np.array([1.0]),), 1) for name in "ab")
    assert disagreement(one, other) == disagreement(one, output(np.array([1.0]))) == Disagreement(1, 0, 0.0, 0.0, 0.0)
    value = Output("value", (), (objects({"a": 1}),), 1)
    assert disagreement(value, value) == Disagreement(1, 0)
    assert disagreement(value, Output("value", (), (objects({"a": 2}),), 1)) == Disagreement(1, 1)
    assert mean_prediction(Output("value", (), (np.array([1.5]),), 1)) == 1.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1, 2, 3]), np.array([1, 5, 3], dtype=np.int32)),
        (np.array([True, False, True]), np.array([True, True, True])),
        (np.array(["a", "b", "c"]), np.array(["a", "long", "c"])),
        (objects("a", None, "c"), objects("a", "b", "c")),
        (objects([1, 2], {"x": 1}, 3), objects([1, 2], {"x": 2}, 3)),
        (objects(np.arange(2), np.arange(3), 3), objects(np.arange(2), np.arange(4), 3)),
        (objects([np.arange(2)], [np.arange(3)], NAN), objects([np.arange(2)], [np.arange(4)], NAN)),
        (np.array(["2026-01-01", "NaT", "NaT"], "M8[s]"), np.array(["2026-01-01", "2026-01-02", "NaT"], "M8[s]")),
    ],
    ids=["integers", "booleans", "text", "missing text", "objects", "arrays", "arrays in lists", "times"],
)
def test_labels_that_differ_are_mismatches(one: Array, other: Array) -> None:
    assert disagreement(output(one), output(other)) == Disagreement(3, 1)


def test_labels_of_incomparable_types_all_differ() -> None:
    assert disagreement(output(np.array(["a", "b"])), output(np.array([1, 2]))) == Disagreement(2, 2)
    times = np.array(["2026-01-01", "2026-01-02"], "M8[s]")
    assert disagreement(output(times), output(np.array([1, 2]))) == Disagreement(2, 2)


def test_a_number_beside_none_is_a_mismatch_without_difference() -> None:
    found = disagreement(output(np.array([NAN, INF, 1.0, NAN, INF])), output(np.array([1.0, 1.0, 1.5, NAN, INF])))
    assert found == Disagreement(5, 2, close(0.5 / 3), 0.5, close(1 / 9))
    assert disagreement(output(np.array([NAN])), output(np.array([1.0]))) == Disagreement(1, 1)


def test_numbers_of_all_columns_and_shapes_count_together() -> None:
    names = ("a", "b")
    one = output(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [3.0, NAN]]), names=names)
    other = output(np.array([1.0, 3.0]), np.array([[1.0, 2.0], [4.0, 5.0]]), names=names)
    found = disagreement(one, other)
    assert found == Disagreement(2, 1, close(2 / 5), 1.0, close((1 / 3 + 1 / 4) / 5))


def test_complex_numbers_are_numbers() -> None:
    found = disagreement(output(np.array([3 + 4j, NAN])), output(np.array([0j, NAN])))
    assert found == Disagreement(2, 0, 2.5, 5.0, 0.5)


def test_a_row_with_several_cells_mismatches_once() -> None:
    one, other = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[0, 0], [3, 4], [5, 0]])
    assert disagreement(output(one), output(other)) == Disagreement(3, 2)


def test_columns_are_compared_by_name_and_counted_by_row() -> None:
    names = ("label", "score")
    found = disagreement(
        output(np.array(["a", "b"]), np.array([0.5, 0.25]), names=names),
        output(np.array(["a", "c"]), np.array([0.5, 0.75]), names=names),
    )
    assert found == Disagreement(2, 1, 0.25, 0.5, close(1 / 3))


@pytest.mark.parametrize(
    "other",
    [
        output(np.zeros(3)),
        output(np.zeros((2, 1))),
        output(np.zeros(2), names=("a",)),
        output(np.zeros(2), np.zeros(2)),
    ],
    ids=["rows", "shape", "names", "arrays"],
)
def test_answers_of_another_form_cannot_be_compared(other: Output) -> None:
    assert disagreement(other, output(np.zeros(2))) is None


def test_answers_without_rows_have_no_difference() -> None:
    assert disagreement(output(np.zeros(0)), output(np.zeros(0))) == Disagreement(0, 0)
    none = output(np.zeros((0, 2), dtype=int))
    assert disagreement(none, none) == Disagreement(0, 0)


def test_the_mean_prediction_covers_all_finite_numbers() -> None:
    assert mean_prediction(output(np.array([1, 2, 6]))) == 3.0
    assert mean_prediction(output(np.array([True, False]))) == 0.5
    assert mean_prediction(output(np.array([1.0, NAN, INF]))) == 1.0
    assert mean_prediction(output(np.array(["a", "b"]), np.array([1.0, 2.0]), names=("a", "b"))) == 1.5
    assert mean_prediction(output(np.array([1.0, 2.0]), np.array([3, 4]), names=("a", "b"))) == 2.5
    assert mean_prediction(output(np.array([NAN]))) is None
    assert mean_prediction(output(np.array(["a"]))) is None
    assert mean_prediction(output(np.zeros(0))) is None
    assert mean_prediction(output(np.array([INF, -INF, 2.0]))) == 2.0


def test_a_mean_whose_sum_overflows_is_finite() -> None:
    assert mean_prediction(output(np.array([1.5e308, 1.5e308]))) == close(1.5e308)
    assert mean_prediction(output(np.array([1.5e308, 1.5e308, INF]))) == close(1.5e308)
    found = disagreement(output(np.array([1.5e308, -1.5e308])), output(np.array([1, 2])))
    assert found == Disagreement(2, 0, close(1.5e308), close(1.5e308), 1.0)


def test_values_without_equality_are_compared_by_their_text() -> None:
    signalling = objects(Decimal("sNaN"))
    assert disagreement(output(signalling), output(signalling)) == Disagreement(1, 0)
    assert disagreement(output(signalling), output(objects(Decimal(1)))) == Disagreement(1, 1)
