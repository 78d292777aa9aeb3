from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModelFailed
from app.serving.rows import Array, Batch, Layout, Output, RowLabels, Rows, Values, WrongRowCount, join, stack

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float64": st.floats(width=64),
    "float32": st.floats(width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "str": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    "datetime64[ns]": st.integers(-(2**63), 2**63 - 1),
    "object": st.none() | st.text() | st.binary() | st.lists(st.integers(), max_size=3) | st.just({"a": [1]}),
}
SHAPES = st.sampled_from([(), (1,), (2,), (2, 3), (0,)])


def same(left: Any, right: Any) -> bool:
    return repr(np.asarray(left).tolist()) == repr(np.asarray(right).tolist())


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[Rows], list[list[list[Any]]]]:
    """Some requests of one layout, and per request and column the plain values; lists and arrays mixed."""
    dtypes = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    layout = Layout("columns", tuple(f"c{index}" for index in range(len(dtypes))), tuple(dtypes), ((),) * len(dtypes))
    parts, plain = [], []
    for count in draw(st.lists(st.integers(1, 5), min_size=1, max_size=6)):
        columns: list[Values] = []
        raw = []
        for dtype in dtypes:
            values = draw(st.lists(VALUES[dtype], min_size=count, max_size=count))
            array = np.empty(count, dtype="object" if dtype == "object" else np.array(values, dtype=dtype).dtype)
            array[:] = values
            columns.append(array if draw(st.booleans()) else values)
            raw.append(array.tolist())
        parts.append(Rows(layout, tuple(columns), count))
        plain.append(raw)
    return parts, plain


@given(requests())
def test_stacked_batch_splits_into_its_parts(drawn: tuple[list[Rows], list[list[list[Any]]]]) -> None:
    parts, plain = drawn
    batch = stack(parts)
    assert batch.layout == parts[0].layout
    assert batch.count == sum(part.count for part in parts)
    assert all(len(array) == batch.count for array in batch.arrays)
    for array, dtype in zip(batch.arrays, batch.layout.dtypes, strict=True):
        assert array.dtype == dtype or array.dtype.kind == np.dtype(dtype).kind == "U"
    output = Output("columns", tuple(map(str, batch.layout.names)), batch.arrays, batch.count)
    for piece, part, values in zip(output.split([part.count for part in parts]), parts, plain, strict=True):
        assert piece.count == part.count
        assert [repr(array.tolist()) for array in piece.arrays] == [repr(column) for column in values]


@given(st.sampled_from(["float32", "int64", "bool"]), SHAPES, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_tensors_keep_the_shape_of_their_rows(dtype: str, shape: tuple[int, ...], counts: list[int]) -> None:
    layout = Layout("tensor", (), (dtype,), (shape,))
    arrays = [np.arange(count * int(np.prod(shape))).reshape((count, *shape)).astype(dtype) for count in counts]
    batch = stack([Rows(layout, (array,), count) for array, count in zip(arrays, counts, strict=True)])
    assert batch.arrays[0].shape == (sum(counts), *shape)
    output = Output("tensor", (), batch.arrays, batch.count)
    for piece, array in zip(output.split(counts), arrays, strict=True):
        assert piece.arrays[0].tobytes() == array.tobytes()
        assert piece.arrays[0].shape == array.shape


def test_lists_in_an_object_column_stay_lists() -> None:
    layout = Layout("columns", ("x",), ("object",), ((),))
    for parts in ([[[1, 2], [3, 4]]], [[[1, 2]], [[3, 4]]]):
        batch = stack([Rows(layout, (values,), len(values)) for values in parts])
        assert batch.arrays[0].tolist() == [[1, 2], [3, 4]]
        assert batch.arrays[0].shape == (2,)


def test_single_array_is_not_copied() -> None:
    array = np.ones(3)
    batch = stack([Rows(Layout("columns", ("x",), ("float64",), ((),)), (array,), 3)])
    assert batch.arrays[0] is array


def test_columns_that_came_as_one_array_are_stacked_as_one() -> None:
    layout = Layout("columns", ("x", "y"), ("float64", "float64"), ((), ()))
    given = [np.arange(6.0).reshape(3, 2), np.arange(6.0, 12).reshape(3, 2)]
    parts = [Rows(layout, tuple(array.T), 3, array.T) for array in given]
    cut = [parts[0].cut(0, 1), parts[0].cut(1, 3), parts[1]]
    for together in (parts, cut):
        batch = stack(together)
        assert batch.block is not None
        assert batch.block.flags.c_contiguous
        assert batch.block.tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
        assert [array.tolist() for array in batch.arrays] == batch.block.tolist()
    plain = Rows(layout, ([6.0], [7.0]), 1)
    mixed = stack([parts[0], plain])
    assert mixed.block is None
    assert [array.tolist() for array in mixed.arrays] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_model_that_writes_to_its_input_changes_no_request() -> None:
    given = np.ones((1, 2))
    layout = Layout("columns", ("x", "y"), ("float64", "float64"), ((), ()))
    batch = stack([Rows(layout, tuple(given.T), 1, given.T)])
    assert batch.block is not None
    batch.block[:] = 2
    assert given.tolist() == [[1, 1]]


def test_the_output_for_one_request_stays_as_it_is() -> None:
    output = Output("tensor", (), (np.arange(4),), 4)
    assert output.split([1]) == [output]


@pytest.mark.parametrize("counts", [[1, 2], [3, 3], []])
def test_output_with_a_wrong_row_count_is_not_split(counts: list[int]) -> None:
    output = Output("tensor", (), (np.arange(4),), 4)
    with pytest.raises(WrongRowCount) as caught:
        output.split(counts)
    assert str(caught.value) == f"it answered 4 items for {sum(counts)} rows"


def test_output_with_uneven_arrays_is_not_split() -> None:
    with pytest.raises(WrongRowCount):
        Output("tensors", ("a", "b"), (np.arange(4), np.arange(3)), 4).split([2, 2])


def test_nbytes_counts_by_size_or_by_item() -> None:
    layout = Layout("columns", ("a", "b", "c"), ("float64", "int32", "object"), ((), (), ()))
    rows = Rows(layout, (np.ones(2), [1, 2], ["four", None]), 2)
    assert rows.nbytes == 16 + 8 + (64 + 4) + 32


@given(requests(), st.data())
def test_cut_rows_stack_to_the_same_batch(drawn: tuple[list[Rows], list[list[list[Any]]]], data: st.DataObject) -> None:
    for part in drawn[0]:
        edge = data.draw(st.integers(0, part.count))
        cuts = [part.cut(start, stop) for start, stop in ((0, edge), (edge, part.count)) if start < stop]
        whole, again = stack([part]), stack(cuts)
        assert whole.count == again.count
        for array, other in zip(whole.arrays, again.arrays, strict=True):
            assert array.dtype == other.dtype
            assert same(array, other)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([np.array([1, 2]), np.array([3])], np.array([1, 2, 3])),
        ([np.array([1], "int32"), np.array([2], "int32")], np.array([1, 2], "int32")),
        ([np.array([1]), np.array([2.5])], np.array([1.0, 2.5])),
        ([np.array([1.5], "float32"), np.array([2.5])], np.array([1.5, 2.5])),
        ([np.array(["a"]), np.array(["longer"])], np.array(["a", "longer"])),
        ([np.array(["a"], object), np.array(["b"], object)], np.array(["a", "b"], object)),
        ([np.array([None, 1], object), np.array([2])], np.array([None, 1, 2], object)),
        ([np.array(["a"]), np.array([1])], np.array(["a", 1], object)),
        (
            [np.array(["2024-01-01"], "datetime64[D]"), np.array([1], "datetime64[ns]")],
            np.array(["2024-01-01", 1], "datetime64[ns]"),
        ),
        ([np.ones((1, 2)), np.zeros((2, 2))], np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])),
    ],
    ids=str,
)
def test_outputs_are_joined(parts: list[Any], expected: Any) -> None:
    joined = join([Output("columns", ("x",), (part,), len(part)) for part in parts])
    assert (joined.kind, joined.names, joined.count) == ("columns", ("x",), len(expected))
    (array,) = joined.arrays
    assert array.dtype == expected.dtype
    assert same(array, expected)
    assert [type(value) for value in array.tolist()] == [type(value) for value in expected.tolist()]


def test_split_output_joins_to_itself() -> None:
    output = Output("tensors", ("a", "b"), (np.arange(6), np.arange(12).reshape(6, 2)), 6)
    joined = join(output.split([1, 2, 3]))
    assert [array.tolist() for array in joined.arrays] == [array.tolist() for array in output.arrays]
    assert join([output]) is output


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (
            Output("tensor", (), (np.ones((1, 2)),), 1),
            Output("tensor", (), (np.ones((1, 3)),), 1),
            "the shape of a row",
        ),
        (Output("columns", ("a",), (np.ones(1),), 1), Output("columns", ("b",), (np.ones(1),), 1), "form or names"),
        (Output("tensors", ("a",), (np.ones(1),), 1), Output("columns", ("a",), (np.ones(1),), 1), "form or names"),
        (
            Output("tensor", (), (np.ones(1),), 1),
            Output("tensor", (), (np.array([1], "datetime64[ns]"),), 1),
            "type",
        ),
    ],
)
def test_outputs_that_differ_are_not_joined(first: Output, second: Output, what: str) -> None:
    with pytest.raises(ModelFailed, match=f"differ in {what}"):
        join([first, second])


@pytest.mark.parametrize(
    ("dtypes", "arrays", "travels_as_one"),
    [
        (("float64", "float64"), (np.ones(2), np.arange(2.0)), True),
        (("float64", "int64"), (np.ones(2), np.arange(2)), False),
        (("object", "object"), (np.array(["a", "b"], object), np.array([None, "c"], object)), False),
        (("float64",), (np.ones(2),), False),
    ],
)
def test_batch_survives_pickling(dtypes: tuple[str, ...], arrays: tuple[Array, ...], travels_as_one: bool) -> None:
    names = tuple("ab"[: len(dtypes)])
    batch = Batch(Layout("columns", names, dtypes, ((),) * len(dtypes)), arrays, 2)
    arrived = pickle.loads(pickle.dumps(batch, protocol=5))
    assert (arrived.layout, arrived.count) == (batch.layout, 2)
    for there, here in zip(arrived.arrays, arrays, strict=True):
        assert there.dtype == here.dtype
        assert there.tolist() == here.tolist()
    assert (arrived.block is not None) == travels_as_one


def test_tensors_of_one_dtype_are_pickled_apart() -> None:
    layout = Layout("tensors", ("a", "b"), ("float64",) * 2, ((3,), (1,)))
    batch = Batch(layout, (np.ones((2, 3)), np.ones((2, 1))), 2)
    assert [array.shape for array in pickle.loads(pickle.dumps(batch)).arrays] == [(2, 3), (2, 1)]


def test_the_size_of_objects_includes_what_is_in_them() -> None:
    layout = Layout("list", (), ("object",), ((),))
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    values = [{"a": [[1.0] * 1000, "x" * 1000]}, (np.zeros(1000), as_objects(["y" * 1000])), nested]
    sizes = [Rows(layout, ([value],), 1).nbytes for value in values]
    assert 33_000 < sizes[0] < 34_000
    assert 9_000 < sizes[1] < 10_000
    assert sizes[2] > 5000 * 64
    rows = Rows(layout, (values,), 3)
    assert rows.nbytes == sum(sizes) == stack([rows, rows]).nbytes / 2
    assert Rows(layout, ([1.5, "ab"],), 2).nbytes == 32 + 66


def test_the_size_of_a_batch_includes_texts_and_labels() -> None:
    texts = Rows(Layout("columns", ("t",), ("object",), ((),)), (["x" * 1000],), 1)
    assert stack([texts, texts]).nbytes == 2 * texts.nbytes == 2 * 1064
    labeled = texts.labeled(RowLabels(("y" * 1000,)))
    assert stack([labeled]).nbytes == labeled.nbytes == 2 * 1064


def as_objects(values: list[Any]) -> Array:
    return np.array(values, dtype=object)
