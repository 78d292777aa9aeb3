from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.signatures.specs import EARLIEST, LATEST, one, read, refused


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(("kind", "dtype"), [("double", "float64"), ("float", "float32")])
def test_null_and_nan_are_nan_in_float_columns(kind: str, dtype: str, required: bool) -> None:
    array = read(one(kind, required=required), None, math.nan, math.inf, -math.inf, 1, 2.5)
    assert array.dtype == dtype
    assert repr(array.tolist()) == "[nan, nan, inf, -inf, 1.0, 2.5]"


@given(st.lists(st.floats(width=64) | st.integers(-(2**70), 2**70) | st.none(), min_size=1))
def test_doubles_keep_all_their_bits(values: list[Any]) -> None:
    expected = np.array([math.nan if value is None else float(value) for value in values])
    assert read(one("double"), *values).tobytes() == expected.tobytes()


@given(st.lists(st.floats(width=64), min_size=1))
def test_floats_are_rounded_to_32_bits_or_refused(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        expected = np.array(values, dtype="float32")
    overflown = np.isinf(expected) & ~np.isinf(np.array(values))
    if overflown.any():
        error = refused(lambda: read(one("float"), *values))
        assert error.details["row"] == int(np.flatnonzero(overflown)[0])
    else:
        assert read(one("float"), *values).tobytes() == expected.tobytes()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_longs_keep_all_their_digits(values: list[int]) -> None:
    assert read(one("long"), *values).tolist() == values


def test_whole_floats_are_integers() -> None:
    assert read(one("integer"), 3.0, -2.0, 1).tolist() == [3, -2, 1]


def test_strings_are_kept_as_they_are() -> None:
    assert read(one("string"), "", "å\0b").tolist() == ["", "å\0b"]
    assert read(one("string", required=False), "a", None).tolist() == ["a", None]


def test_binary_is_base64_or_bytes() -> None:
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
def test_datetimes_are_utc_to_the_nanosecond(value: Any, expected: str) -> None:
    assert str(read(one("datetime"), value)[0]) == expected


@given(st.datetimes(EARLIEST, LATEST, timezones=st.one_of(st.none(), st.timezones())))
def test_iso_datetimes_read_as_in_numpy(moment: datetime) -> None:
    if moment.tzinfo and moment.utcoffset() is not None:
        naive = moment.astimezone(UTC).replace(tzinfo=None)
    else:
        naive = moment.replace(tzinfo=None)
    assert read(one("datetime"), moment.isoformat())[0] == np.datetime64(naive.isoformat(), "ns")


def test_null_in_an_optional_datetime_is_nat() -> None:
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
def test_values_of_another_type_are_refused_at_their_row(kind: str, value: Any) -> None:
    good = {"string": "a", "binary": "YQ==", "datetime": "2024-01-01", "boolean": True}.get(kind, 1)
    details = refused(lambda: read(one(kind), good, good, value)).details
    assert (details["column"], details["row"]) == ("x", 2)
    assert kind in details["expected"] or kind == "string"


@pytest.mark.parametrize("kind", ["integer", "long"])
def test_null_is_refused_even_in_optional_integer_columns(kind: str) -> None:
    assert "null" in refused(lambda: read(one(kind, required=False), 1, None)).message
