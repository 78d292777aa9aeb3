"""Rows from the arrays of the Open Inference Protocol: the same as from the same values in JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidInput
from app.serving.rows import Array, Layout, Rows, stack
from app.serving.signatures.signature import Signature
from tests.serving.signatures.specs import column, tensor


def compiled(*specs: dict[str, Any]) -> Signature:
    return Signature.compile(specs)


def objects(*values: Any, shape: tuple[int, ...] = (-1,)) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def values(rows: Rows) -> str:
    return repr([array.tolist() for array in stack([rows]).arrays])


def refused(signature: Signature, tensors: dict[str, Array]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        signature.rows("tensors", tensors)
    assert len(caught.value.message) < 1500
    json.dumps(caught.value.details)
    return caught.value


ABC = compiled(column("double", "a"), column("long", "b"), column("string", "c"))
TENSORS = {"c": objects(b"z", "y"), "b": np.array([2, 3]), "a": np.array([1.5, 2.5])}


class TestColumns:
    def test_tensor_per_column_reads_as_json(self) -> None:
        rows = ABC.rows("tensors", TENSORS)
        plain = ABC.rows("columns", {"a": [1.5, 2.5], "b": [2, 3], "c": ["z", "y"]})
        assert (rows.layout, rows.count, values(rows)) == (plain.layout, plain.count, values(plain))
        upright = {name: array.reshape(2, 1) for name, array in TENSORS.items()}
        assert values(ABC.rows("tensors", upright)) == values(plain)

    def test_arrays_of_the_columns_dtype_are_not_copied(self) -> None:
        array = np.ones(3)
        assert compiled(column("double", "x")).rows("tensors", {"x": array}).columns[0] is array

    @pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "float32"])
    def test_numbers_of_another_size_are_converted(self, dtype: str) -> None:
        for kind, expected in (("double", "float64"), ("float", "float32"), ("integer", "int32"), ("long", "int64")):
            rows = compiled(column(kind, "x")).rows("tensors", {"x": np.array([1, 2], dtype)})
            assert np.asarray(rows.columns[0]).dtype == expected
            assert values(rows) == repr([np.array([1, 2], expected).tolist()])

    @pytest.mark.parametrize("shape", [(2, 3), (1, 3)])
    def test_one_tensor_of_any_name_may_hold_all_columns(self, shape: tuple[int, int]) -> None:
        signature = compiled(column("double", "a"), column("long", "b"), column("float", "c"))
        array = np.arange(shape[0] * 3, dtype="float64").reshape(shape)
        expected = signature.rows("instances", array.tolist())
        assert values(signature.rows("tensors", {"input-0": array})) == values(expected)

    def test_only_a_foreign_name_and_the_full_width_hold_all(self) -> None:
        signature = compiled(column("double", "a"), column("double", "b"))
        assert "lacks 'a', 'b'" in refused(signature, {"x": np.ones((2, 3))}).message
        assert "lacks 'b'" in refused(signature, {"a": np.ones((2, 2))}).message
        assert "lacks 'a', 'b'" in refused(signature, {"x": np.ones(2)}).message

    def test_only_column_may_be_named_or_a_matrix(self) -> None:
        signature = compiled(column("double", "x"))
        for tensors in ({"x": np.ones(2)}, {"x": np.ones((2, 1))}, {"any": np.ones((2, 1))}):
            assert values(signature.rows("tensors", tensors)) == "[[1.0, 1.0]]"

    def test_optional_columns_may_be_left_out(self) -> None:
        signature = compiled(column("double", "a"), column("long", "b", required=False))
        assert signature.rows("tensors", {"a": np.ones(1)}).layout.names == ("a",)

    def test_optional_booleans_keep_their_dtype(self) -> None:
        signature = compiled(column("boolean", "x", required=False))
        assert signature.rows("tensors", {"x": np.array([True])}).layout.dtypes == ("bool",)

    def test_binary_columns_accept_bytes_and_base64_text(self) -> None:
        signature = compiled(column("binary", "x"))
        assert values(signature.rows("tensors", {"x": objects(b"\xff\0", b"YQ==")})) == r"[[b'\xff\x00', b'YQ==']]"
        assert values(signature.rows("tensors", {"x": objects("YQ==")})) == "[[b'a']]"

    def test_datetimes_come_as_text(self) -> None:
        signature = compiled(column("datetime", "x"))
        rows = signature.rows("tensors", {"x": objects(b"2024-01-01T01:00:00+01:00")})
        assert str(stack([rows]).arrays[0][0]) == "2024-01-01T00:00:00.000000000"
        refused(signature, {"x": np.array([1700000000])})

    def test_lists_are_a_dimension_or_json(self) -> None:
        signature = compiled(column("array", "x", items={"type": "double"}))
        expected = values(signature.rows("columns", {"x": [[1.0, 2.0], [3.0, 4.0]]}))
        assert values(signature.rows("tensors", {"x": np.array([[1, 2], [3, 4]], "f4")})) == expected
        assert values(signature.rows("tensors", {"x": objects(b"[1, 2]", "[3, 4]")})) == expected
        assert values(signature.rows("tensors", {"x": np.ones((1, 1))})) == "[[[1.0]]]"
        texts = compiled(column("array", "x", items={"type": "string"}))
        assert values(texts.rows("tensors", {"x": objects(b"a", b"b", shape=(1, 2))})) == "[[['a', 'b']]]"

    def test_objects_are_json(self) -> None:
        signature = compiled(column("object", "x", properties={"a": {"type": "long", "required": True}}))
        assert values(signature.rows("tensors", {"x": objects(b'{"a": 1}')})) == "[[{'a': 1}]]"
        assert refused(signature, {"x": objects(b'{"a": 1}', b"{")}).details["row"] == 1

    def test_any_column_keeps_the_callers_dtype(self) -> None:
        signature = compiled(column("any", "x"))
        assert signature.rows("tensors", {"x": np.array([1, 2])}).layout.dtypes == ("int64",)
        assert values(signature.rows("tensors", {"x": objects(b"a")})) == "[['a']]"

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({}, "lacks 'a', 'b', 'c'"),
            ({**TENSORS, "d": np.ones(2)}, "'d', which is not among"),
            ({**TENSORS, "a": np.ones(3)}, "differ in length"),
            ({**TENSORS, "a": np.ones((2, 2))}, "tensor 'a' has the shape [2, 2], expected [-1]"),
            ({**TENSORS, "a": np.ones((2, 1, 1))}, "tensor 'a' has the shape [2, 1, 1]"),
            ({**TENSORS, "a": np.array(1.5)}, "tensor 'a' has no dimensions"),
            ({**TENSORS, "a": np.array([True, False])}, "column 'a', row 0 is true"),
            ({**TENSORS, "a": objects("1", "2")}, "column 'a', row 0 is '1'"),
            ({**TENSORS, "b": np.array([1, 1.5])}, "column 'b', row 1 is 1.5"),
            ({**TENSORS, "b": np.array([1, np.nan])}, "column 'b', row 1 is nan"),
            ({**TENSORS, "b": np.array([1, 2**63], "uint64")}, "column 'b', row 1 is 9223372036854775808"),
            ({**TENSORS, "c": np.ones(2)}, "column 'c', row 0 is 1.0, expected a string"),
            ({**TENSORS, "c": objects(b"a", b"\xff")}, "column 'c', row 1"),
        ],
    )
    def test_misfits_are_reported_with_column_and_row(self, tensors: dict[str, Array], words: str) -> None:
        assert words in refused(ABC, tensors).message

    def test_tensors_without_rows_are_an_empty_table(self) -> None:
        rows = compiled(column("double", "x")).rows("tensors", {"x": np.ones(0)})
        assert rows.layout == Layout("columns", ("x",), ("float64",), ((),), alone=True)


class TestTensors:
    UNNAMED = compiled(tensor("float32", -1, 2))
    NAMED = compiled(tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s"))

    @pytest.mark.parametrize("name", ["input", "input_1", ""])
    def test_only_tensor_may_have_any_name(self, name: str) -> None:
        array = np.array([[1, 2], [3, 4]], "f4")
        rows = self.UNNAMED.rows("tensors", {name: array})
        assert rows.layout == Layout("tensor", (), ("float32",), ((2,),))
        assert np.shares_memory(np.asarray(rows.columns[0]), array)

    def test_named_tensors_come_in_any_order(self) -> None:
        rows = self.NAMED.rows("tensors", {"s": objects(b"a", b"bc"), "x": np.array([[1, 2], [3, 4]], "i2")})
        assert rows.layout == Layout("tensors", ("x", "s"), ("float64", "str"), ((2,), ()))
        assert values(rows) == "[[[1.0, 2.0], [3.0, 4.0]], ['a', 'bc']]"

    def test_tensors_of_bytes_text_and_objects(self) -> None:
        for dtype, expected in (("bytes", b"a"), ("str", "a"), ("object", "a")):
            for signature, name in ((compiled(tensor(dtype, -1)), "any"), (compiled(tensor(dtype, -1, name="x")), "x")):
                assert values(signature.rows("tensors", {name: objects(b"a")})) == repr([[expected]])
        both = compiled(tensor("bytes", -1, name="raw"), tensor("str", -1, name="text"))
        rows = both.rows("tensors", {"raw": objects(b"\xff"), "text": objects(b"a")})
        assert values(rows) == r"[[b'\xff'], ['a']]"
        assert refused(both, {"raw": objects(b"a"), "text": objects(b"\xff")}).details["column"] == "text"

    def test_named_tensors_may_differ_in_length(self) -> None:
        rows = self.NAMED.rows("tensors", {"x": np.ones((1, 2)), "s": objects("a", "b", "c")})
        assert (rows.count, rows.layout.alone, rows.nbytes) == (3, True, 16 + 3 * 4)
        assert [array.shape for array in stack([rows]).arrays] == [(1, 2), (3,)]

    @pytest.mark.parametrize("shape", [(3, 64), (3, 8, 8, 1), (64,)])
    def test_a_tensor_of_the_wrong_rank_is_refused_by_name(self, shape: tuple[int, ...]) -> None:
        images = compiled(tensor("float64", -1, 8, 8, name="image"))
        assert images.rows("tensors", {"image": np.ones((3, 8, 8))}).layout.shapes == ((8, 8),)
        error = refused(images, {"image": np.ones(shape)})
        assert f"'image' has the shape {list(shape)}, expected [-1, 8, 8]" in error.message

    @pytest.mark.parametrize(
        ("named", "tensors", "words"),
        [
            (False, {"a": np.ones((1, 2)), "b": np.ones((1, 2))}, "one tensor, of any name, not 'a', 'b'"),
            (False, {}, "one tensor"),
            (False, {"a": np.ones((1, 3))}, "the shape [1, 3], expected [-1, 2]"),
            (False, {"a": np.array(1.0)}, "has no dimensions"),
            (False, {"a": np.array([[1.0, 1e39]])}, "1e+39"),
            (False, {"a": np.array([[True, False]])}, "true"),
            (True, {"x": np.ones((1, 2))}, "lacks 's'"),
            (True, {"x": np.ones((1, 2)), "s": objects("a"), "t": np.ones(1)}, "'t'"),
            (True, {"x": np.ones((1, 2)), "s": np.ones(1)}, "'s', row 0 is 1.0"),
            (True, {"x": np.array(1.0), "s": objects("a")}, "'x' has no dimensions"),
        ],
    )
    def test_misfits_are_reported(self, named: bool, tensors: dict[str, Array], words: str) -> None:
        assert words in refused(self.NAMED if named else self.UNNAMED, tensors).message


class TestUntyped:
    SIGNATURE = Signature.compile(None)

    @pytest.mark.parametrize(
        ("tensors", "layout"),
        [
            ({"a": np.ones(2, "f4")}, Layout("columns", ("a",), ("float32",), ((),))),
            ({"a": np.ones((2, 3), "u1")}, Layout("tensor", (), ("uint8",), ((3,),))),
            ({"a": np.ones((2, 1))}, Layout("tensor", (), ("float64",), ((1,),))),
            ({"b": np.ones(2), "a": np.ones(2, "?")}, Layout("columns", ("b", "a"), ("float64", "bool"), ((), ()))),
            ({"b": np.ones((2, 1)), "a": np.ones(2)}, Layout("tensors", ("b", "a"), ("float64",) * 2, ((1,), ()))),
            ({"a": objects(b"x", "y")}, Layout("columns", ("a",), ("object",), ((),))),
            ({"a": np.ones(0)}, Layout("columns", ("a",), ("float64",), ((),), alone=True)),
            (
                {"a": np.ones(1), "b": np.ones(2)},
                Layout("tensors", ("a", "b"), ("float64",) * 2, ((), ()), alone=True),
            ),
            (
                {"a": np.ones((1, 2)), "b": np.ones(2)},
                Layout("tensors", ("a", "b"), ("float64",) * 2, ((2,), ()), alone=True),
            ),
        ],
    )
    def test_arrays_keep_their_dtype(self, tensors: dict[str, Array], layout: Layout) -> None:
        rows = self.SIGNATURE.rows("tensors", tensors)
        assert rows.layout == layout
        arrays = stack([rows]).arrays
        expected = [["x", "y"]] if layout.dtypes == ("object",) else [array.tolist() for array in tensors.values()]
        assert [array.tolist() for array in arrays] == expected

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({"a": np.array(1)}, "'a' has no dimensions"),
            ({"a": objects(b"\xff")}, "UTF-8"),
        ],
    )
    def test_misfits_are_reported(self, tensors: dict[str, Array], words: str) -> None:
        assert words in refused(self.SIGNATURE, tensors).message
