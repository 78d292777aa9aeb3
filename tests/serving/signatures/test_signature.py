from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput, ModelUnavailable
from app.serving.rows import Layout, Rows, stack
from app.serving.signatures.signature import Form, Signature

LONGEST_MESSAGE = 1500
EARLIEST, LATEST = datetime.fromisoformat("1678-01-01"), datetime.fromisoformat("2262-01-01")


def column(kind: str, name: str | int | None = None, *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": kind, "required": required, **more} | ({} if name is None else {"name": name})


def columns(*specs: dict[str, Any]) -> Signature:
    return Signature.compile(specs, None, None)


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {**spec, "name": name}


def one(kind: str, *, required: bool = True) -> Signature:
    return columns(column(kind, "x", required=required))


def read(signature: Signature, *values: Any) -> Any:
    """The array that the model gets for the values of the only column."""
    batch = stack([signature.rows("records", [{"x": value} for value in values])])
    assert batch.arrays[0].dtype == np.dtype(batch.layout.dtypes[0])
    return batch.arrays[0]


def lists(rows: Rows) -> list[Any]:
    """Each column as nested lists."""
    return [np.asarray(values).tolist() for values in rows.columns]


def refused(call: Callable[[], Any]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert len(caught.value.message) < LONGEST_MESSAGE
    json.dumps(caught.value.details)
    return caught.value


ABC = columns(column("double", "a"), column("long", "b"), column("string", "c"))
ROW = {"a": 1.5, "b": 2, "c": "z"}


class TestColumns:
    def test_describes_its_columns(self) -> None:
        signature = Signature.compile(
            [column("double", "a"), column("array", "b", required=False, items={"type": "string"})],
            [column("double")],
            [{"name": "top", "type": "long", "default": 3, "shape": None}],
        )
        assert [(c.name, c.type, c.required, c.dtype) for c in signature.columns] == [
            ("a", "double", True, "float64"),
            ("b", "array(string)", False, "object"),
        ]
        assert signature.required_columns == ("a",)
        assert signature.param_names == ("top",)
        assert not signature.is_tensor
        assert signature.outputs == ({"type": "double", "required": True},)

    def test_a_model_answers_row_by_row_unless_its_signature_is_missing_or_fixes_the_rows(self) -> None:
        assert one("double").by_row
        assert Signature.compile([tensor("float64", -1, 3)]).by_row
        assert Signature.compile([tensor("float64", -1, 3, name="x")]).by_row
        assert not Signature.compile(None).by_row
        assert not Signature.compile([tensor("float64", 1, 3)]).by_row

    @pytest.mark.parametrize("kind", ["vector", "complex"])
    def test_an_unknown_type_is_an_unavailable_model(self, kind: str) -> None:
        with pytest.raises(ModelUnavailable):
            one(kind)

    def test_values_are_kept_in_the_order_of_the_signature(self) -> None:
        rows = ABC.rows("records", [{"c": "z", "b": 2, "a": 1.5}, {"a": 2.5, "c": "y", "b": 3}])
        assert rows.layout == Layout("columns", ("a", "b", "c"), ("float64", "int64", "object"), ((), (), ()))
        assert rows.columns == ([1.5, 2.5], [2, 3], ["z", "y"])
        assert rows.count == 2

    def test_every_form_reads_the_same_rows(self) -> None:
        expected = ABC.rows("records", [ROW, ROW])
        assert ABC.rows("columns", {"b": [2, 2], "a": [1.5, 1.5], "c": ["z", "z"]}) == expected
        assert ABC.rows("inputs", {"b": [2, 2], "a": [1.5, 1.5], "c": ["z", "z"]}) == expected
        assert ABC.rows("inputs", [ROW, ROW]) == expected
        assert ABC.rows("instances", [ROW, ROW]) == expected
        assert ABC.rows("instances", [[1.5, 2, "z"], [1.5, 2, "z"]]) == expected

    def test_single_values_are_one_row(self) -> None:
        assert ABC.rows("columns", ROW) == ABC.rows("records", [ROW])
        assert ABC.rows("inputs", ROW) == ABC.rows("records", [ROW])

    @pytest.mark.parametrize("form", ["instances", "inputs"])
    def test_a_single_column_takes_bare_values(self, form: Form) -> None:
        expected = one("string").rows("records", [{"x": "a"}, {"x": "b"}])
        assert one("string").rows(form, ["a", "b"]) == expected
        assert one("string").rows(form, [["a"], ["b"]]) == expected
        assert one("string").rows("inputs", "a").columns == (["a"],)

    def test_inputs_with_list_columns_are_one_row_where_they_can_be(self) -> None:
        signature = columns(column("long", "id"), column("array", "v", items={"type": "double"}))
        row = signature.rows("inputs", {"id": 1, "v": [1.0, 2.0]})
        assert (row.count, row.columns) == (1, ([1], [[1.0, 2.0]]))
        rows = signature.rows("inputs", {"id": [1, 2], "v": [[1.0], [2.0]]})
        assert (rows.count, rows.columns) == (2, ([1, 2], [[1.0], [2.0]]))

    def test_arrays_of_the_right_dtype_are_not_copied(self) -> None:
        given_array = np.array([1.0, 2.0])
        rows = one("double").rows("columns", {"x": given_array})
        assert rows.columns[0] is given_array
        cast = one("double").rows("columns", {"x": np.array([1, 2], "int32")}).columns[0]
        assert (np.asarray(cast).dtype.name, list(cast)) == ("float64", [1.0, 2.0])
        assert one("string").rows("columns", {"x": np.array(["a"])}).columns == (["a"],)
        assert stack([one("long").rows("columns", {"x": np.array([[1], [2]])})]).arrays[0].tolist() == [1, 2]

    def test_unnamed_columns_are_called_by_position_and_labelled_by_number(self) -> None:
        signature = columns(column("double"), column("long"))
        rows = signature.rows("records", [{"1": 2, "0": 1.5}])
        assert rows.layout.names == (0, 1)
        assert rows == signature.rows("instances", [[1.5, 2]])
        assert columns(column("double", 7), column("long", 3)).rows("instances", [[1.5, 2]]).layout.names == (7, 3)

    def test_the_rows_of_a_single_unnamed_object_are_its_values(self) -> None:
        signature = columns(column("object", properties={"a": {"type": "long", "required": True}}))
        for rows in (
            signature.rows("records", [{"a": 1}, {"a": 2.0}]),
            signature.rows("instances", [{"a": 1}, {"a": 2.0}]),
            signature.rows("inputs", [{"a": 1}, {"a": 2.0}]),
        ):
            assert rows.columns == ([{"a": 1}, {"a": 2}],)
            assert rows.layout.names == (0,)
        assert refused(lambda: signature.rows("records", [{"a": 1}, {"b": 1}])).details["row"] == 1

    def test_layouts_are_reused(self) -> None:
        assert ABC.rows("records", [ROW]).layout is ABC.rows("records", [ROW, ROW]).layout

    def test_optional_columns_may_be_left_out(self) -> None:
        signature = columns(column("double", "a"), column("string", "b", required=False), column("long", "c"))
        rows = signature.rows("records", [{"c": 1, "a": 2.0}])
        assert rows.layout.names == ("a", "c")
        assert rows.columns == ([2.0], [1])
        assert rows == signature.rows("columns", {"c": [1], "a": [2.0]})
        assert refused(lambda: one("double", required=False).rows("records", [{}, {}])).message
        mixed = signature.rows("records", [{"c": 1, "a": 2.0}, {"c": 1, "a": 2.0, "b": "x"}])
        assert mixed.columns == ([2.0, 2.0], [None, "x"], [1, 1])

    def test_a_null_makes_an_optional_boolean_an_object_of_its_own_layout(self) -> None:
        signature = one("boolean", required=False)
        assert read(signature, True, False).dtype == bool
        assert read(signature, True, None).tolist() == [True, None]
        layouts = {signature.rows("records", [{"x": value}]).layout for value in (True, None)}
        assert {layout.dtypes for layout in layouts} == {("bool",), ("object",)}

    @pytest.mark.parametrize(
        ("payload", "told"),
        [
            ([{"a": 1.0, "c": "x"}], {"column": "b", "row": 0, "missing": ["b"]}),
            ([ROW, {"a": 1.0}], {"column": "b", "row": 1, "missing": ["b", "c"]}),
            ([ROW, {**ROW, "bb": 1}], {"column": "bb", "row": 1, "extra": ["bb"]}),
            ([ROW, [1, 2, 3]], {"row": 1, "expected": "object"}),
            ([ROW, "abc"], {"row": 1, "expected": "object"}),
            ([ROW, None], {"row": 1}),
            ([{}], {"missing": ["a", "b", "c"]}),
            ([], {}),
            ("abc", {}),
            (None, {}),
            ([{**ROW, "a": "1.5"}], {"column": "a", "row": 0, "expected": "a number (double)"}),
            ([ROW, {**ROW, "b": 2.5}], {"column": "b", "row": 1}),
            ([ROW, {**ROW, "c": 3}], {"column": "c", "row": 1, "expected": "a string"}),
        ],
    )
    def test_wrong_records_are_told_by_column_and_row(self, payload: Any, told: dict[str, Any]) -> None:
        details = refused(lambda: ABC.rows("records", payload)).details
        assert {key: details.get(key) for key in told} == told

    def test_a_misspelt_column_is_recognised(self) -> None:
        error = refused(lambda: columns(column("double", "price")).rows("records", [{"prise": 1.0}]))
        assert "lacks 'price'" in error.message
        assert "did you mean 'price'?" in error.message

    def test_messages_stay_short_for_many_columns_and_long_values(self) -> None:
        many = columns(*(column("double", f"column_{index}") for index in range(500)))
        error = refused(lambda: many.rows("records", [{f"other_{index}": 1 for index in range(500)}]))
        assert "and 480 more" in error.message
        assert len(error.details["missing"]) == 20
        long = refused(lambda: one("double").rows("records", [{"x": "y" * 10**6}]))
        assert len(long.message) < 150

    @pytest.mark.parametrize(
        "payload",
        [{"a": [1.0], "b": [1, 2], "c": ["x"]}, {"a": 1.0, "b": [1], "c": ["x"]}, {"a": [], "b": [], "c": []}, {}, []],
    )
    def test_uneven_or_empty_columns_are_refused(self, payload: Any) -> None:
        refused(lambda: ABC.rows("columns", payload))

    @pytest.mark.parametrize("payload", [[[1.0, 2]], [[1.0, 2, "x", 4]], [1.0], [ROW, [1.0, 2, "x"]], []])
    def test_instances_of_another_form_are_refused(self, payload: Any) -> None:
        refused(lambda: ABC.rows("instances", payload))
        refused(lambda: ABC.rows("inputs", payload))


class TestScalars:
    @pytest.mark.parametrize("required", [True, False])
    @pytest.mark.parametrize(("kind", "dtype"), [("double", "float64"), ("float", "float32")])
    def test_null_and_nan_are_nan_in_float_columns(self, kind: str, dtype: str, required: bool) -> None:
        array = read(one(kind, required=required), None, math.nan, math.inf, -math.inf, 1, 2.5)
        assert array.dtype == dtype
        assert repr(array.tolist()) == "[nan, nan, inf, -inf, 1.0, 2.5]"

    @given(st.lists(st.floats(width=64) | st.integers(-(2**70), 2**70) | st.none(), min_size=1))
    def test_doubles_keep_all_their_bits(self, values: list[Any]) -> None:
        expected = np.array([math.nan if value is None else float(value) for value in values])
        assert read(one("double"), *values).tobytes() == expected.tobytes()

    @given(st.lists(st.floats(width=64), min_size=1))
    def test_floats_are_rounded_to_32_bits_or_refused(self, values: list[float]) -> None:
        with np.errstate(over="ignore"):
            expected = np.array(values, dtype="float32")
        overflown = np.isinf(expected) & ~np.isinf(np.array(values))
        if overflown.any():
            error = refused(lambda: read(one("float"), *values))
            assert error.details["row"] == int(np.flatnonzero(overflown)[0])
        else:
            assert read(one("float"), *values).tobytes() == expected.tobytes()

    @given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
    def test_longs_keep_all_their_digits(self, values: list[int]) -> None:
        assert read(one("long"), *values).tolist() == values

    def test_whole_floats_are_integers(self) -> None:
        assert read(one("integer"), 3.0, -2.0, 1).tolist() == [3, -2, 1]

    def test_strings_are_taken_as_they_are(self) -> None:
        assert read(one("string"), "", "å\0b").tolist() == ["", "å\0b"]
        assert read(one("string", required=False), "a", None).tolist() == ["a", None]

    def test_binary_is_base64_or_bytes(self) -> None:
        assert read(one("binary"), "AAEC\n", b"\0", "").tolist() == [b"\0\1\2", b"\0", b""]
        assert read(one("binary", required=False), "YQ==", None).tolist() == [b"a", None]

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2024-02-29", "2024-02-29T00:00:00.000000000"),
            ("2024-02-29 10:11", "2024-02-29T10:11:00.000000000"),
            ("2024-02-29T10:11:12Z", "2024-02-29T10:11:12.000000000"),
            ("2024-02-29T10:11:12.5+02:00", "2024-02-29T08:11:12.500000000"),
            ("1969-12-31T23:59:59.999999999", "1969-12-31T23:59:59.999999999"),
            ("2024-01-01T00:00:00.1234567Z", "2024-01-01T00:00:00.123456700"),
            (datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2024-01-01T00:00:00.000000000"),
            (datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None), "2024-01-01T00:00:00.000000000"),
        ],
    )
    def test_datetimes_are_utc_to_the_nanosecond(self, value: Any, expected: str) -> None:
        assert str(read(one("datetime"), value)[0]) == expected

    @given(st.datetimes(EARLIEST, LATEST, timezones=st.one_of(st.none(), st.timezones())))
    def test_any_iso_datetime_reads_as_numpy_reads_it(self, moment: datetime) -> None:
        if moment.tzinfo and moment.utcoffset() is not None:
            naive = moment.astimezone(UTC).replace(tzinfo=None)
        else:
            naive = moment.replace(tzinfo=None)
        assert read(one("datetime"), moment.isoformat())[0] == np.datetime64(naive.isoformat(), "ns")

    def test_a_null_in_an_optional_datetime_is_not_a_time(self) -> None:
        array = read(one("datetime", required=False), None, "2024-01-01")
        assert np.isnat(array).tolist() == [True, False]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("double", "1.5"),
            ("double", True),
            ("double", [1.0]),
            ("double", 10**400),
            ("float", 1e39),
            ("float", 2**129),
            ("integer", 2**31),
            ("integer", -(2**31) - 1),
            ("integer", 1.5),
            ("integer", True),
            ("integer", None),
            ("integer", "1"),
            ("integer", math.nan),
            ("long", 2**63),
            ("long", 1e19),
            ("long", math.inf),
            ("long", None),
            ("boolean", 1),
            ("boolean", "true"),
            ("boolean", None),
            ("string", 1),
            ("string", None),
            ("string", ["a"]),
            ("binary", "a"),
            ("binary", "å==="),
            ("binary", "YQ=*"),
            ("binary", 1),
            ("binary", None),
            ("datetime", "yesterday"),
            ("datetime", "2024-13-01"),
            ("datetime", 1700000000),
            ("datetime", 1.5),
            ("datetime", True),
            ("datetime", None),
            ("datetime", "1066-10-14"),
            ("datetime", "9999-12-31T23:59:59-23:00"),
        ],
    )
    def test_values_of_another_kind_are_refused_at_their_row(self, kind: str, value: Any) -> None:
        good = {"string": "a", "binary": "YQ==", "datetime": "2024-01-01", "boolean": True}.get(kind, 1)
        details = refused(lambda: read(one(kind), good, good, value)).details
        assert (details["column"], details["row"]) == ("x", 2)
        assert kind in details["expected"] or kind == "string"

    @pytest.mark.parametrize("kind", ["integer", "long"])
    def test_null_is_no_integer_even_where_the_column_is_optional(self, kind: str) -> None:
        assert "null" in refused(lambda: read(one(kind, required=False), 1, None)).message


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

    def test_narrow_numbers_and_datetimes_are_numpys_own(self) -> None:
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

    def test_nulls_and_empty_objects_fit_optional_columns(self) -> None:
        values = self.read(grid=None, who=None, weights=None, rest=None)
        assert [values[name] for name in ("grid", "who", "weights", "rest")] == [None] * 4
        assert self.read(who={}, weights={})["who"] == {}

    def test_what_the_caller_sent_is_not_written_into(self) -> None:
        sent = {"name": "a", "age": 1.0}
        assert self.read(who=sent)["who"] is not sent
        assert sent == {"name": "a", "age": 1.0}

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [([1, 2], "int64"), ([2**63], "uint64"), ([1, None], "float64"), ([True], "bool"), ([1, "a"], "object")],
    )
    def test_columns_of_any_type_get_the_dtype_of_the_request(self, values: list[Any], dtype: str) -> None:
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
    def test_the_place_inside_a_value_is_told(self, row: dict[str, Any], name: str, path: str) -> None:
        records = [{"sizes": [1]}, {"sizes": [1], **row}]
        details = refused(lambda: self.SIGNATURE.rows("records", records)).details
        assert (details["column"], details["row"], details.get("path", "")) == (name, 1, path)


class TestTensors:
    def test_describes_its_tensors(self) -> None:
        unnamed = Signature.compile([tensor("float32", -1, 3)])
        assert unnamed.is_tensor
        assert unnamed.columns == ()
        assert unnamed.tensor is not None
        assert (unnamed.tensor.dtype, unnamed.tensor.shape) == ("float32", (-1, 3))
        named = Signature.compile([tensor("str", -1, name="s")])
        assert named.required_columns == ("s",)
        assert (named.columns[0].type, named.tensor) == ("tensor(str)", None)

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            ("float64", [[1, 2.5], [math.nan, math.inf]]),
            ("float32", [[1, 2.5], [0.1, 1e38]]),
            ("float16", [[1, 2.5], [0.1, 65504]]),
            ("int8", [[1, -128], [127, 3.0]]),
            ("uint64", [[2**64 - 1, 0], [1, 2]]),
            ("bool", [[True, False], [True, True]]),
            ("str", [["a", "bcd"], ["", "å"]]),
            ("object", [["a", 1], [None, {"x": 1}]]),
        ],
    )
    def test_nested_lists_become_the_array_that_numpy_makes(self, dtype: str, values: list[Any]) -> None:
        signature = Signature.compile([tensor(dtype, -1, 2)])
        rows = signature.rows("instances", values)
        expected = np.array(values, dtype=dtype)
        assert rows.layout == Layout("tensor", (), (dtype,), ((2,),))
        assert repr(stack([rows]).arrays[0]) == repr(expected)
        assert repr(signature.rows("inputs", values).columns[0]) == repr(expected)
        assert repr(signature.rows("columns", {"any": expected}).columns[0]) == repr(expected)

    def test_binary_and_datetime_tensors(self) -> None:
        assert lists(Signature.compile([tensor("bytes", -1)]).rows("inputs", ["YWI="])) == [[b"ab"]]
        moments = Signature.compile([tensor("datetime64[us]", -1)]).rows("inputs", ["2024-01-01T00:00:00.000001"])
        assert moments.layout.dtypes == ("datetime64[us]",)
        assert str(moments.columns[0][0]) == "2024-01-01T00:00:00.000001"

    def test_arrays_of_the_right_dtype_are_not_copied(self) -> None:
        array = np.ones((2, 3), "float32")
        rows = Signature.compile([tensor("float32", -1, 3, name="x")]).rows("columns", {"x": array})
        assert np.shares_memory(np.asarray(rows.columns[0]), array)

    def test_null_is_nan_among_floats(self) -> None:
        rows = Signature.compile([tensor("float32", -1, 2)]).rows("instances", [[None, 1.0]])
        assert repr(lists(rows)) == "[[[nan, 1.0]]]"

    def test_free_dimensions_are_part_of_the_layout(self) -> None:
        signature = Signature.compile([tensor("float64", -1, -1)])
        assert signature.rows("instances", [[1.0, 2.0]]).layout.shapes == ((2,),)
        assert signature.rows("instances", [[1.0, 2.0, 3.0]]).layout.shapes == ((3,),)
        assert signature.rows("instances", [[]]).layout.shapes == ((0,),)

    def test_flat_rows_take_the_fixed_shape(self) -> None:
        signature = Signature.compile([tensor("int64", -1, 2, 2)])
        assert lists(signature.rows("instances", [[1, 2, 3, 4]])) == [[[[1, 2], [3, 4]]]]
        column_vector = Signature.compile([tensor("int64", -1, 1)])
        assert lists(column_vector.rows("instances", [1, 2])) == [[[1], [2]]]

    def test_named_tensors_in_every_form(self) -> None:
        signature = Signature.compile([tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s")])
        rows = signature.rows("instances", [{"s": "a", "x": [1, 2]}, {"x": [3, 4], "s": "b"}])
        assert rows.layout == Layout("tensors", ("x", "s"), ("float64", "str"), ((2,), ()))
        assert lists(rows) == [[[1.0, 2.0], [3.0, 4.0]], ["a", "b"]]
        again = signature.rows("inputs", {"s": ["a", "b"], "x": [[1, 2], [3, 4]]})
        assert again.layout == rows.layout
        assert repr(again.columns) == repr(rows.columns)

    def test_rows_of_named_numbers_fill_an_unnamed_tensor_in_the_order_of_the_first(self) -> None:
        signature = Signature.compile([tensor("float64", -1, 2)])
        expected = [[1.0, 2.0], [3.0, 4.0]]
        for rows in (
            signature.rows("records", [{"p": 1, "q": 2}, {"q": 4, "p": 3}]),
            signature.rows("columns", {"p": [1, 3], "q": np.array([2, 4])}),
        ):
            assert lists(rows) == [expected]
        assert lists(signature.rows("columns", {"p": 1, "q": 2})) == [[[1.0, 2.0]]]
        assert lists(Signature.compile([tensor("float64", -1, 1)]).rows("records", [{"p": 1}])) == [[[1.0]]]
        assert lists(Signature.compile([tensor("float64", -1)]).rows("columns", {"p": 1})) == [[1.0]]

    def test_a_fixed_number_of_rows_is_told_and_kept(self) -> None:
        signature = Signature.compile([tensor("float64", 2, 1)])
        assert signature.fixed_rows == 2
        assert signature.rows("instances", [[1], [2]]).count == 2
        refused(lambda: signature.rows("instances", [[1]]))

    @pytest.mark.parametrize(
        ("dtype", "values", "row", "path"),
        [
            ("float32", [[1.0, 2.0], [1.0, "x"]], 1, "[1]"),
            ("float32", [[1.0, True]], 0, "[1]"),
            ("float32", [[1.0, 1e39]], 0, "[1]"),
            ("int64", [[1, 2], [1.5, 2]], 1, "[0]"),
            ("int64", [[1, None]], 0, "[1]"),
            ("int64", [[1, math.nan]], 0, "[1]"),
            ("uint8", [[1, -1]], 0, "[1]"),
            ("int32", [[1, 2**31]], 0, "[1]"),
            ("bool", [[True, 1]], 0, "[1]"),
            ("str", [["a", 1]], 0, "[1]"),
            ("float64", [[1.0, 2.0], [1.0]], 1, ""),
            ("float64", [[1.0], [1.0, 2.0]], 0, ""),
            ("float64", [[1.0, 2.0], 3.0], 1, ""),
            ("float64", [3.0, [1.0, 2.0]], 0, ""),
        ],
    )
    def test_a_wrong_element_is_told_by_its_place(self, dtype: str, values: Any, row: int, path: str) -> None:
        details = refused(lambda: Signature.compile([tensor(dtype, -1, 2)]).rows("instances", values)).details
        assert (details["row"], details.get("path", "")) == (row, path)

    @pytest.mark.parametrize("values", [[], [[]], [1.0], [[1.0]], [[1.0, 2.0, 3.0]], [[[1.0, 2.0]]], 5, None])
    def test_another_shape_is_refused(self, values: Any) -> None:
        refused(lambda: Signature.compile([tensor("float64", -1, 2)]).rows("inputs", values))

    @pytest.mark.parametrize(
        "payload",
        [
            {"x": [[1, 2]]},
            {"x": [[1, 2]], "s": ["a"], "t": [1]},
            {"x": [[1, 2]], "s": ["a", "b"]},
            {"x": [], "s": []},
            [[1, 2]],
            [{"x": [1, 2]}],
            [{"x": [1, 2], "s": "a"}, [1]],
        ],
    )
    def test_named_tensors_must_all_be_there_with_as_many_rows(self, payload: Any) -> None:
        signature = Signature.compile([tensor("float64", -1, 2, name="x"), tensor("str", -1, name="s")])
        refused(lambda: signature.rows("inputs", payload))

    @pytest.mark.parametrize("spec", [tensor("complex128", -1), tensor("float64"), tensor("nonsense", -1)])
    def test_tensors_that_json_cannot_fill_make_the_model_unavailable(self, spec: dict[str, Any]) -> None:
        with pytest.raises(ModelUnavailable):
            Signature.compile([spec])


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
    def test_records_are_columns_of_the_dtypes_that_they_have(self, values: list[Any], dtype: str) -> None:
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

    def test_objects_that_hold_lists_are_named_arrays(self) -> None:
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


class TestParams:
    SIGNATURE = Signature.compile(
        [column("double", "x")],
        None,
        [
            {"name": "top", "type": "long", "default": 3, "shape": None},
            {"name": "rate", "type": "double", "default": 0.5, "shape": None},
            {"name": "tags", "type": "string", "default": ["a"], "shape": [-1]},
            {"name": "since", "type": "datetime", "default": "2024-01-01", "shape": None},
            {"name": "deep", "type": "object", "default": {}, "properties": {"k": {"type": "long"}}, "shape": None},
        ],
    )

    def canonical(self, params: Any) -> str:
        return self.SIGNATURE.rows("records", [{"x": 1.0}], params).layout.params

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            (None, ""),
            ({}, ""),
            ({"top": 1}, '{"top":1}'),
            ({"top": 1.0, "rate": 1}, '{"rate":1.0,"top":1}'),
            ({"tags": ["b", "a"], "rate": None}, '{"rate":null,"tags":["b","a"]}'),
            ({"since": "2024-05-05"}, '{"since":"2024-05-05"}'),
            ({"since": "20240505"}, '{"since":"2024-05-05"}'),
            ({"since": "2024-05-05T10:00:00+02:00"}, '{"since":"2024-05-05T08:00:00"}'),
            ({"deep": {"k": 1}}, '{"deep":{"k":1}}'),
        ],
    )
    def test_parameters_have_one_form(self, params: Any, expected: str) -> None:
        assert self.canonical(params) == expected

    @pytest.mark.parametrize(
        "params",
        [
            {"topp": 1},
            {"top": "1"},
            {"top": True},
            {"top": 1.5},
            {"rate": "x"},
            {"tags": "a"},
            {"tags": [1]},
            {"since": 5},
            {"deep": None},
            {"deep": {"k": "x"}},
            [],
            "top",
        ],
    )
    def test_wrong_parameters_are_refused(self, params: Any) -> None:
        refused(lambda: self.canonical(params))

    def test_an_unknown_parameter_is_told_with_those_that_exist(self) -> None:
        error = refused(lambda: self.canonical({"tops": 1}))
        assert "did you mean 'top'?" in error.message
        assert error.details["expected"] == ["top", "rate", "tags", "since", "deep"]

    @pytest.mark.parametrize("signature", [one("double"), Signature.compile(None)])
    def test_a_model_without_parameters_takes_none(self, signature: Signature) -> None:
        assert "takes no parameters" in refused(lambda: signature.rows("records", [{"x": 1.0}], {"a": 1})).message
        assert signature.rows("records", [{"x": 1.0}], {}).layout.params == ""

    def test_parameters_without_a_schema_of_inputs_are_read(self) -> None:
        specs = [{"name": "top", "type": "long", "default": 3, "shape": None}]
        signature = Signature.compile(None, None, specs)
        assert signature.rows("instances", [1], {"top": 2}).layout.params == '{"top":2}'


def test_rows_of_every_kind_survive_pickling() -> None:
    import pickle

    for rows in (ABC.rows("records", [ROW]), Signature.compile(None).rows("instances", [[1, 2]])):
        copied: Rows = pickle.loads(pickle.dumps(rows))
        assert repr(copied) == repr(rows)


def test_what_makes_the_same_rows_is_what_takes_the_same_inputs_and_parameters() -> None:
    inputs = [{"name": "a", "type": "double", "required": True}]
    params = [{"name": "top", "type": "long", "default": 3, "shape": None}]
    outputs = [{"name": "y", "type": "double", "required": True}]
    one = Signature.compile(inputs, None, params)
    assert Signature.compile([dict(inputs[0])], outputs, params).reads_as(one)
    assert Signature.compile(None).reads_as(Signature.compile([], None, []))
    for other in (
        Signature.compile(inputs),
        Signature.compile(inputs, None, [{**params[0], "default": 4}]),
        Signature.compile([{**inputs[0], "required": False}], None, params),
        Signature.compile([{**inputs[0], "type": "float"}], None, params),
        Signature.compile(None, None, params),
    ):
        assert not other.reads_as(one)
        assert not one.reads_as(other)
