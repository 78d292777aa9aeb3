from __future__ import annotations

import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse  # type: ignore[import-untyped]

from app.adapters.mlflow.model_io import model_input, model_output, model_params
from app.errors import ModelFailed
from app.serving.json_output import predictions
from app.serving.rows import Array, Batch, Layout, Output


def matrix(rows: list[list[int]]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy advises against it; models answer with it all the same
        return np.matrix(rows)


def columns(**arrays: Array) -> Batch:
    layout = Layout("columns", tuple(arrays), tuple(a.dtype.name for a in arrays.values()), ((),) * len(arrays))
    return Batch(layout, tuple(arrays.values()), len(next(iter(arrays.values()))))


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def strings(output: Output) -> list[tuple[str, str]]:
    return [(array.dtype.str, repr(array.tolist())) for array in output.arrays]


class TestInput:
    def test_a_frame_has_the_batches_columns_and_dtypes(self) -> None:
        when = np.array(["2024-01-01", "NaT"], dtype="datetime64[ns]")
        batch = columns(a=np.array([1.0, 2.0]), b=np.array([1, 2], "int32"), c=np.array(["x", None], object), d=when)
        expected = pd.DataFrame({"a": [1.0, 2.0], "b": np.array([1, 2], "int32"), "c": ["x", None], "d": when})
        pd.testing.assert_frame_equal(model_input(batch), expected)  # type: ignore[arg-type]

    @pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool", "object", "datetime64[ns]"])
    def test_a_frame_of_one_dtype_is_one_block(self, dtype: str) -> None:
        frame = model_input(columns(a=np.array([0, 1]).astype(dtype), b=np.array([1, 0]).astype(dtype)))
        assert isinstance(frame, pd.DataFrame)
        assert set(frame.dtypes) == {np.dtype(dtype)}
        assert frame.to_numpy().flags.f_contiguous  # as pyfunc's enforcement lays it out: it decides the last bits

    def test_columns_without_names_are_numbered(self) -> None:
        layout = Layout("columns", (7, 0), ("float64", "object"), ((), ()))
        frame = model_input(Batch(layout, (np.ones(1), np.array(["x"], object)), 1))
        assert isinstance(frame, pd.DataFrame)
        assert repr(list(frame.columns)) == "[7, 0]"

    @pytest.mark.parametrize("count", [1, 2])
    def test_the_model_may_write_into_its_input(self, count: int) -> None:
        array = read_only(np.ones(2))
        frame = model_input(columns(**{f"c{index}": array for index in range(count)}))
        assert isinstance(frame, pd.DataFrame)
        frame["c0"] *= 2
        frame.to_numpy()[:] = 3
        for kind, names in (("tensor", ()), ("tensors", ("x",))):
            given: Any = model_input(Batch(Layout(kind, names, ("float64",), ((),)), (array,), 2))  # type: ignore[arg-type]
            (given["x"] if names else given)[:] = 5
        assert array.tolist() == [1, 1]

    def test_nested_cells_are_the_models_own(self) -> None:
        cells = np.empty(2, object)
        cells[:] = [{"a": 1}, [2]]
        frame: Any = model_input(columns(x=cells))
        frame["x"][0]["a"] = 9
        frame["x"][1].append(9)
        assert cells.tolist() == [{"a": 1}, [2]]

    def test_writable_tensors_are_not_copied(self) -> None:
        array = np.ones((2, 2))
        assert model_input(Batch(Layout("tensor", (), ("float64",), ((2,),)), (array,), 2)) is array

    def test_parameters_are_what_the_layout_says(self) -> None:
        layout = Layout("tensor", (), ("float64",), ((),), '{"a":[1,null],"b":NaN}')
        assert repr(model_params(Batch(layout, (np.ones(1),), 1))) == repr({"a": [1, None], "b": math.nan})
        assert model_params(columns(a=np.ones(1))) is None


class _Colour(Enum):
    RED = "red"


NAT = pd.NaT
DAYS = pd.DatetimeIndex(np.array(["2024-01-01", "NaT"], dtype="datetime64[ns]"))

# A prediction of two rows; the kind and names of its output; the dtype and values of each array.
UNDERSTOOD: list[tuple[Any, str, tuple[str, ...], list[tuple[str, list[Any]]]]] = [
    (np.array([1.5, 2.5]), "tensor", (), [("<f8", [1.5, 2.5])]),
    (np.array([1, 2], ">i4"), "tensor", (), [("<i4", [1, 2])]),
    (np.array([[1.5], [2.5]], "float32"), "tensor", (), [("<f4", [[1.5], [2.5]])]),
    (np.array([1, 2], np.longdouble), "tensor", (), [("<f8", [1.0, 2.0])]),
    (matrix([[1], [2]]), "tensor", (), [("<i8", [[1], [2]])]),
    (np.ma.array([1, 2], mask=[True, False]), "tensor", (), [("|O", [None, 2])]),
    (np.array(["a", None], object), "tensor", (), [("|O", ["a", None])]),
    (np.array([NAT, pd.NA], object), "tensor", (), [("|O", [None, None])]),
    (scipy.sparse.csr_matrix([[0, 1], [2, 0]]), "tensor", (), [("<i8", [[0, 1], [2, 0]])]),
    (pd.Series([1, 2], name="y", index=[5, 5]), "series", ("y",), [("<i8", [1, 2])]),
    (pd.Series([1, None], dtype="Int64"), "series", (), [("|O", [1, None])]),
    (pd.Series([2**62, 1], dtype="Int64"), "series", (), [("<i8", [2**62, 1])]),
    (pd.Series([True, None], dtype="boolean"), "series", (), [("|O", [True, None])]),
    (pd.Series([0.5, None], dtype="Float64"), "series", (), [("<f8", [0.5, math.nan])]),
    (pd.Series(["a", None], dtype="string"), "series", (), [("|O", ["a", None])]),
    (pd.Series(["a", None], dtype="category"), "series", (), [("|O", ["a", math.nan])]),
    (pd.Series([3, 4], dtype="category"), "series", (), [("<i8", [3, 4])]),
    (pd.Series([1, None], dtype="int64[pyarrow]"), "series", (), [("|O", [1, None])]),
    (pd.Series(["a", "b"], dtype="string[pyarrow]"), "series", (), [("|O", ["a", "b"])]),
    (pd.Series([0.0, 1.5], dtype="Sparse[float]"), "series", (), [("<f8", [0.0, 1.5])]),
    (pd.Series(DAYS.tz_localize("Europe/Zurich")), "series", (), [("|O", ["2024-01-01T00:00:00+01:00", None])]),
    (pd.Index([1, 2]), "tensor", (), [("<i8", [1, 2])]),
    (pd.array([1, 2]), "tensor", (), [("<i8", [1, 2])]),
    (pd.Categorical(["a", "b"]), "tensor", (), [("|O", ["a", "b"])]),
    ([1, 2], "tensor", (), [("<i8", [1, 2])]),
    ([1, 2.5], "tensor", (), [("|O", [1, 2.5])]),
    ([0.5, None], "tensor", (), [("<f8", [0.5, math.nan])]),
    ([2**53 + 1, None], "tensor", (), [("|O", [2**53 + 1, None])]),
    ((1, 2), "tensor", (), [("<i8", [1, 2])]),
    (["a", b"b"], "tensor", (), [("|O", ["a", b"b"])]),
    ([np.float32(0.1), np.float32(2)], "tensor", (), [("<f4", [np.float32(0.1).item(), 2.0])]),
    ([np.float32(0.5), 2], "tensor", (), [("|O", [0.5, 2])]),
    ([np.array([1, 2]), np.array([3, 4])], "tensor", (), [("<i8", [[1, 2], [3, 4]])]),
    ([[1, 2], (3, 4)], "tensor", (), [("<i8", [[1, 2], [3, 4]])]),
    ([[1], [2, 3]], "tensor", (), [("|O", [[1], [2, 3]])]),
    ([["a"], ["b"]], "tensor", (), [("|O", [["a"], ["b"]])]),
    ([_Colour.RED, Decimal("1.5")], "tensor", (), [("|O", ["red", Decimal("1.5")])]),
    ([date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)], "tensor", (), [
        ("|O", [date(2024, 1, 1), "2024-01-01T00:00:00+00:00"])
    ]),
    ([pd.Period("2024-01"), {"a": np.int8(1)}], "tensor", (), [("|O", ["2024-01", {"a": 1}])]),
    ([{"a": 1, "b": "x"}, {"b": "y", "a": 2}], "columns", ("a", "b"), [("<i8", [1, 2]), ("|O", ["x", "y"])]),
    ([{"a": 1}, {"b": 2}], "tensor", (), [("|O", [{"a": 1}, {"b": 2}])]),
    ([{}, {}], "tensor", (), [("|O", [{}, {}])]),
    ([{"a": [1, 2]}, {"a": [3, 4]}], "columns", ("a",), [("|O", [[1, 2], [3, 4]])]),
    ({"a": [1, 2], "b": np.ones((2, 1))}, "tensors", ("a", "b"), [("<i8", [1, 2]), ("<f8", [[1.0], [1.0]])]),
    ({"a": pd.Series(["x", "y"])}, "tensors", ("a",), [("|O", ["x", "y"])]),
    ({True: [1, 2], None: [3, 4]}, "tensors", ("true", "null"), [("<i8", [1, 2]), ("<i8", [3, 4])]),
    ({0: pa.array([1, 2])}, "tensors", ("0",), [("<i8", [1, 2])]),
    ((np.array([1, 2]), np.ones((2, 1))), "tuple", ("output_0", "output_1"), [
        ("<i8", [1, 2]), ("<f8", [[1.0], [1.0]])
    ]),
    (pd.DataFrame({"a": [1, 2], 3: ["x", None]}), "columns", ("a", "3"), [("<i8", [1, 2]), ("|O", ["x", None])]),
    (pd.DataFrame({"t": DAYS}), "columns", ("t",), [
        ("<M8[ns]", [1704067200000000000, None])
    ]),
    (pa.table({"a": [1, 2]}), "columns", ("a",), [("<i8", [1, 2])]),
]  # fmt: skip


class TestOutput:
    @pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda case: f"{type(case[0]).__name__}-{case[3]}"[:60])
    def test_answers_of_every_kind_are_understood(self, case: Any) -> None:
        prediction, kind, names, arrays = case
        output = model_output(prediction)
        assert (output.kind, output.names, output.count) == (kind, names, 2)
        assert strings(output) == [(dtype, repr(values)) for dtype, values in arrays]

    def test_timestamps_in_objects_keep_their_nanoseconds(self) -> None:
        output = model_output([pd.Timestamp("2024-01-01 00:00:00.000000001"), pd.Timedelta(1, "s")])
        assert predictions(output) == ["2024-01-01T00:00:00.000000001", 1.0]

    def test_outputs_unpickle_and_become_json_without_pandas(self) -> None:
        blob = pickle.dumps([model_output(prediction) for prediction, *_ in UNDERSTOOD])
        code = (
            "import pickle, sys; sys.modules.update(pandas=None, pyarrow=None, scipy=None);"
            "from app.serving.json_output import predictions; import orjson;"
            "[orjson.dumps(predictions(output)) for output in pickle.loads(sys.stdin.buffer.read())]"
        )
        subprocess.run([sys.executable, "-c", code], input=blob, check=True)

    @pytest.mark.parametrize(
        ("answer", "dtype", "expected"),
        [
            (1.5, "<f8", 1.5),
            (np.float32(1.5), "<f4", 1.5),
            (np.array(1, ">i2"), "<i2", 1),
            (np.bool_(True), "|b1", True),
            (2**70, "|O", 2**70),
            (None, "|O", None),
            ("text", "|O", "text"),
            (b"text", "|O", b"text"),
            ({}, "|O", {}),
            ({"a": 1, "b": np.float32(2)}, "|O", {"a": 1, "b": 2.0}),
            ({"a": [1], "b": "x"}, "|O", {"a": [1], "b": "x"}),
            (pd.Timestamp("2024-01-01"), "|O", datetime.fromisoformat("2024-01-01")),
        ],
    )
    def test_an_answer_without_items_is_a_value(self, answer: Any, dtype: str, expected: Any) -> None:
        output = model_output(answer)
        assert (output.kind, output.names, output.count) == ("value", (), 1)
        assert strings(output) == [(dtype, repr([expected]))]
        assert not output.has_rows(1)
        assert output.nbytes

    def test_entries_of_a_dict_may_have_different_lengths(self) -> None:
        output = model_output({"a": [1, 2], "b": [0.5]})
        assert (output.kind, output.names) == ("tensors", ("a", "b"))
        assert not output.has_rows(2)
        assert output.amount == "1 and 2 items"

    def test_records_are_lists(self) -> None:
        assert model_output(np.array([(1, 0.5), (2, 1.5)], "i4,f8")).arrays[0].tolist() == [[1, 0.5], [2, 1.5]]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]),
            lambda: pd.DataFrame({1: [1, 2], "1": [3, 4]}),
            lambda: np.array([1j, 2j]),
            lambda: 1j,
            object,
            lambda: [object(), object()],
            lambda: (value for value in (1, 2)),
        ],
    )
    def test_an_answer_without_a_json_form_is_a_model_failure(self, make: Callable[[], Any]) -> None:
        with pytest.raises(ModelFailed) as caught:
            model_output(make())
        assert "0x" not in caught.value.message
