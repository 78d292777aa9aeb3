from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.serving.rows import Array
from app.serving.signatures.casting import documents, exact, texts
from app.serving.signatures.scalars import FloatType, IntegerType
from app.serving.signatures.validation_errors import Misfit

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
NUMBERS = INTEGERS + FLOATS
EDGES = [
    sign * 2**power + offset
    for sign in (1, -1)
    for power in (0, 7, 8, 11, 15, 16, 24, 31, 32, 53, 63, 64)
    for offset in range(-2, 3)
]
MIDDLES = [  # between two neighbouring 16- or 32-bit floats, and a little beside
    2**power + 2 ** (power - step) + offset for power in range(25, 64) for step in (11, 24) for offset in (-1, 0, 1)
]
LARGEST = [65504.0, 65519.0, 65520.0, 65536.0, 3.4028235e38, 3.4028235677973366e38, 3.4028236e38, 1e39, 1e308]


def arrays(dtype: str) -> st.SearchStrategy[Array]:
    """Arrays of one dtype: any of its bits, and its edges."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        numbers = [*map(float, EDGES + MIDDLES), *LARGEST, *(-number for number in LARGEST)]
        with np.errstate(over="ignore"):
            edges = np.array(numbers).astype(kind)
        widths = {2: st.floats(width=16), 4: st.floats(width=32), 8: st.floats()}
        values: st.SearchStrategy[Any] = widths[kind.itemsize] | st.sampled_from(edges.tolist())
    else:
        bounds = np.iinfo(kind)
        whole = [number for number in EDGES + MIDDLES if bounds.min <= number <= bounds.max]
        values = st.integers(int(bounds.min), int(bounds.max)) | st.sampled_from(whole)
    return st.lists(values, min_size=1, max_size=4).map(lambda drawn: np.array(drawn, dtype=kind))


def slowly(array: Array, dtype: str) -> Array | None:
    """What becomes of the same numbers when they come as JSON."""
    reader: FloatType | IntegerType = (
        FloatType(dtype, dtype) if np.dtype(dtype).kind == "f" else IntegerType(dtype, dtype)
    )
    try:
        return np.asarray(reader.convert(array.tolist()), dtype=dtype)
    except Misfit:
        return None


def same(left: Array | None, right: Array | None) -> bool:
    if left is None or right is None:
        return left is right
    # Zeros keep their signs; one NaN is as good as another.
    alike = left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    return alike and np.array_equal(np.signbit(left)[left == 0], np.signbit(right)[right == 0])


@pytest.mark.parametrize("given_dtype", NUMBERS)
@given(data=st.data())
def test_numbers_become_what_they_would_as_json(given_dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(given_dtype))
    for dtype in NUMBERS:
        fast, slow = exact(array, dtype), slowly(array, dtype)
        assert same(fast, slow), (array, dtype, fast, slow)


@pytest.mark.parametrize("given_dtype", NUMBERS)
def test_every_edge_becomes_what_it_would_as_json(given_dtype: str) -> None:
    kind = np.dtype(given_dtype)
    numbers: list[Any] = EDGES + MIDDLES
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            edges = np.array([*map(float, numbers), *LARGEST, np.inf, -np.inf]).astype(kind)
    else:
        bounds = np.iinfo(kind)
        edges = np.array([number for number in numbers if bounds.min <= number <= bounds.max], dtype=kind)
    for edge in np.unique(edges):
        array = np.array([edge])
        for dtype in NUMBERS:
            assert same(exact(array, dtype), slowly(array, dtype)), (edge, dtype)


@pytest.mark.parametrize(
    ("array", "dtype", "expected"),
    [
        (np.array([2**60 + 2**36 + 1]), "float32", [float(2**60)]),  # rounded twice, as JSON's numbers are
        (np.array([2**63 - 1]), "float64", [2.0**63]),
        (np.array([2.0**63]), "uint64", [2**63]),
        (np.array([-(2.0**63)]), "int64", [-(2**63)]),
        (np.array([2.0**63]), "int64", None),
        (np.array([2.0**64]), "uint64", None),
        (np.array([-1.0]), "uint64", None),
        (np.array([-np.inf], "float16"), "int32", None),
        (np.array([np.inf], "float16"), "int64", None),
        (np.array([np.nan, 1.0]), "int64", None),
        (np.array([1.5]), "int64", None),
        (np.array([-0.0]), "int8", [0]),
        (np.array([65519.9]), "float16", [65504.0]),
        (np.array([65520]), "float16", None),
        (np.array([3.4028235e38]), "float32", [np.float32(3.4028235e38)]),
        (np.array([3.4028236e38]), "float32", None),
        (np.array([1e39]), "float32", None),
        (np.array([np.inf, -np.inf]), "float32", [np.inf, -np.inf]),
        (np.array([2**64 - 1], "uint64"), "int64", None),
        (np.array([-1], "int8"), "uint8", None),
        (np.array([127], "int8"), "uint8", [127]),
    ],
)
def test_edges_of_the_ranges(array: Array, dtype: str, expected: list[Any] | None) -> None:
    cast = exact(array, dtype)
    assert (None if cast is None else cast.tolist()) == expected
    assert cast is None or cast.dtype == dtype


def test_a_signalling_nan_is_a_nan_without_a_warning() -> None:
    for bits, unsigned, dtype in ((0x7C01, "u2", "float64"), (0x7F800001, "u4", "float64"), (2**62 - 1, "u8", "f4")):
        array = np.array([bits | (0x7FF << 52 if unsigned == "u8" else 0)], unsigned).view(f"f{unsigned[1]}")
        cast = exact(array, np.dtype(dtype).name)
        assert cast is not None
        assert np.isnan(cast).all()
        assert exact(array, "int64") is None


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool", "object", "datetime64[ns]"])
def test_an_array_of_the_dtype_is_not_copied(dtype: str) -> None:
    array = np.zeros(3, dtype)
    assert exact(array, dtype) is array


@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_shape_stays_and_the_byte_order_becomes_the_machines(dtype: str) -> None:
    array = np.arange(6, dtype=np.dtype(dtype).newbyteorder(">")).reshape(2, 3)
    cast = exact(array, dtype)
    assert cast is not None
    assert (cast.dtype.isnative, cast.tolist()) == (True, [[0, 1, 2], [3, 4, 5]])
    for other in NUMBERS:
        cast = exact(array, other)
        assert cast is not None
        assert cast.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([True]), "int64"),
        (np.array([True]), "float64"),
        (np.array([1]), "bool"),
        (np.array(["1"]), "float64"),
        (np.array(["1"], dtype=object), "float64"),
        (np.array([1.0]), "object"),
        (np.array([1.0]), ""),
        (np.array([None], dtype=object), ""),
        (np.array([1]), "str"),
        (np.array([1]), "datetime64[ns]"),
    ],
)
def test_what_are_no_numbers_is_left_to_a_look_at_each(array: Array, dtype: str) -> None:
    assert exact(array, dtype) is None


def test_the_slow_path_refuses_what_this_says_it_does() -> None:
    assert slowly(np.array([math.nan]), "int8") is None
    assert slowly(np.array([True]), "int8") is None


def objects(*values: Any, shape: tuple[int, ...] = (-1,)) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def test_bytes_become_text() -> None:
    array = texts("x", objects(b"a", "\u00e5".encode(), b"", "as it is", shape=(2, 2)))
    assert array.tolist() == [["a", "\u00e5"], ["", "as it is"]]
    only_text = objects("a", "b")
    assert texts("x", only_text) is only_text


def test_bytes_that_are_no_text_are_told_by_their_place() -> None:
    with pytest.raises(InvalidInput, match=r"'x', row 1 at \[2\].*UTF-8") as caught:
        texts("x", objects(b"a", b"b", b"c", b"d", b"e", b"\xff", shape=(2, 3)))
    assert caught.value.details["row"] == 1


def test_json_in_bytes_becomes_its_values() -> None:
    array = documents("x", objects(b"[1, 2.5]", '{"a": null}', b'"text"', b"3"))
    assert array.tolist() == [[1, 2.5], {"a": None}, "text", 3]
    assert documents("x", objects(b"[1]", b"[2]")).shape == (2,)


@pytest.mark.parametrize("wrong", [b"", b"{", b"NaN", b"\xff", b"[" * 33 + b"]" * 33, b'{"a":' * 40 + b"1" + b"}" * 40])
def test_what_is_no_json_or_too_deep_is_told(wrong: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"'x', row 1 .*JSON text at most 32 levels deep"):
        documents("x", objects(b"[]", wrong))


def test_json_with_many_brackets_is_not_deep() -> None:
    assert documents("x", objects(b"[" + b",".join([b"[1]"] * 100) + b"]", b"[" * 32 + b"]" * 32)).shape == (2,)
