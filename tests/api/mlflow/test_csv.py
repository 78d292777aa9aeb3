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
LIMITS = TableLimits(columns=100, nbytes=1_000_000, rows=10_000_000)


def typed(**types: str) -> Signature:
    return Signature.compile([{"name": name, "type": kind} for name, kind in types.items()])


def test_missing_values_have_pandas_spellings() -> None:
    assert set(NULLS) == parsers.STR_NA_VALUES


def test_signature_decides_the_types_of_text() -> None:
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


def test_large_integers_keep_their_digits() -> None:
    for name in ("long", "double"):
        (values,) = csv_columns(b"n\n9007199254740993\n", typed(n=name), LIMITS).values()
        assert list(values) == [2**53 + 1]


def test_wrong_numbers_stay_text_for_the_signature() -> None:
    (values,) = csv_columns(b"x\n1\n2.5\n1_0\n\nx\n\xd9\xa3\n", typed(x="double"), LIMITS).values()
    assert values == [1, 2.5, "1_0", "x", "\u0663"]


def test_only_an_unnamed_first_column_is_dropped() -> None:
    assert list(csv_columns(b",a\n1,2\n", typed(a="double"), LIMITS)) == ["a"]
    assert list(csv_columns(b"a,\n1,2\n", typed(a="double"), LIMITS)) == ["a", "Unnamed: 1"]
    assert list(csv_columns(b",a\n1,2\n", UNTYPED, LIMITS)) == ["Unnamed: 0", "a"]


def test_rows_may_be_longer_than_a_reader_block() -> None:
    text = "x" * 2_000_000
    (values,) = csv_columns(f'a\n"{text}\n"\n'.encode(), typed(a="string"), LIMITS).values()
    assert values == [text + "\n"]


def test_too_many_columns_are_refused_before_parsing() -> None:
    with pytest.raises(TooLarge, match="101 columns"):
        csv_columns(b",".join(b"c%d" % number for number in range(101)), UNTYPED, LIMITS)
    with pytest.raises(TooLarge, match="the header row of the CSV is longer than"):
        csv_columns(b"," * 2_000_000, UNTYPED, LIMITS)


def test_gateway_does_not_import_pyarrow() -> None:
    code = "import sys, app.api.app; sys.exit(any(name in sys.modules for name in ('pyarrow', 'pandas', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
