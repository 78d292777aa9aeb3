from __future__ import annotations

import subprocess
import sys

import pytest
from pandas._libs import parsers  # type: ignore[attr-defined]  # pandas keeps its spellings there

from app.api.mlflow.csv import NULLS, csv_columns
from app.api.mlflow.tables import TableLimits
from app.errors import TooLarge
from app.serving.signatures.signature import Signature

UNTYPED = Signature.compile(None)
LIMITS = TableLimits(columns=100, nbytes=1_000_000)


def typed(**types: str) -> Signature:
    return Signature.compile([{"name": name, "type": kind} for name, kind in types.items()])


def test_missing_values_are_spelled_as_pandas_reads_them() -> None:
    assert set(NULLS) == parsers.STR_NA_VALUES


def test_text_is_read_by_the_types_of_the_signature() -> None:
    body = b'id,n,x,ok,when\n007,007,1,1,2024-01-01\n"1,5",3.0,1e3,true,2024-01-02\n'
    found = csv_columns(body, typed(id="string", n="long", x="double", ok="boolean", when="datetime"), LIMITS)
    lists = {name: list(values) for name, values in found.items()}
    assert lists == {
        "id": ["007", "1,5"],
        "n": [7, 3],
        "x": [1, 1000],
        "ok": [True, True],
        "when": ["2024-01-01", "2024-01-02"],
    }


def test_large_whole_numbers_keep_their_digits() -> None:
    for name in ("long", "double"):
        (values,) = csv_columns(b"n\n9007199254740993\n", typed(n=name), LIMITS).values()
        assert list(values) == [2**53 + 1]


def test_what_is_no_number_stays_text_so_that_the_check_can_name_it() -> None:
    (values,) = csv_columns(b"x\n1\n2.5\n1_0\n\nx\n\xd9\xa3\n", typed(x="double"), LIMITS).values()
    assert values == [1, 2.5, "1_0", "x", "\u0663"]


def test_only_a_first_column_without_a_name_is_left_out() -> None:
    assert list(csv_columns(b",a\n1,2\n", typed(a="double"), LIMITS)) == ["a"]
    assert list(csv_columns(b"a,\n1,2\n", typed(a="double"), LIMITS)) == ["a", "Unnamed: 1"]
    assert list(csv_columns(b",a\n1,2\n", UNTYPED, LIMITS)) == ["Unnamed: 0", "a"]


def test_rows_may_be_longer_than_a_block_of_the_reader() -> None:
    text = "x" * 2_000_000
    (values,) = csv_columns(f'a\n"{text}\n"\n'.encode(), typed(a="string"), LIMITS).values()
    assert values == [text + "\n"]


def test_a_row_of_many_columns_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="101 columns"):
        csv_columns(b",".join(b"c%d" % number for number in range(101)), UNTYPED, LIMITS)
    with pytest.raises(TooLarge, match="the header row of the CSV is longer than"):
        csv_columns(b"," * 2_000_000, UNTYPED, LIMITS)


def test_the_gateway_imports_no_pyarrow() -> None:
    code = "import sys, app.api.app; sys.exit(any(name in sys.modules for name in ('pyarrow', 'pandas', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
