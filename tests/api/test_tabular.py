from __future__ import annotations

import io
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas._libs.parsers import STR_NA_VALUES  # type: ignore[attr-defined]  # not in its stubs
from pyarrow import parquet

from app.api.tabular import NULLS, csv_columns, parquet_columns
from app.errors import InvalidRequest, MalformedBody, TooLarge
from app.serving.signature import Signature

UNTYPED = Signature.compile(None)
LIMIT = 1_000_000


def typed(**types: str) -> Signature:
    return Signature.compile([{"name": name, "type": kind} for name, kind in types.items()])


def written(columns: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def test_missing_values_are_spelled_as_pandas_reads_them() -> None:
    assert set(NULLS) == STR_NA_VALUES


def test_text_is_read_by_the_types_of_the_signature() -> None:
    body = b'id,n,x,ok,when\n007,007,1,1,2024-01-01\n"1,5",3.0,1e3,true,2024-01-02\n'
    found = csv_columns(body, typed(id="string", n="long", x="double", ok="boolean", when="datetime"))
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
        (values,) = csv_columns(b"n\n9007199254740993\n", typed(n=name)).values()
        assert list(values) == [2**53 + 1]


def test_what_is_no_number_stays_text_so_that_the_check_can_name_it() -> None:
    (values,) = csv_columns(b"x\n1\n2.5\n1_0\n\nx\n\xd9\xa3\n", typed(x="double")).values()
    assert values == [1, 2.5, "1_0", "x", "\u0663"]


def test_only_a_first_column_without_a_name_is_left_out() -> None:
    assert list(csv_columns(b",a\n1,2\n", typed(a="double"))) == ["a"]
    assert list(csv_columns(b"a,\n1,2\n", typed(a="double"))) == ["a", "Unnamed: 1"]
    assert list(csv_columns(b",a\n1,2\n", UNTYPED)) == ["Unnamed: 0", "a"]


def test_rows_may_be_longer_than_a_block_of_the_reader() -> None:
    text = "x" * 2_000_000
    (values,) = csv_columns(f'a\n"{text}\n"\n'.encode(), typed(a="string")).values()
    assert values == [text + "\n"]


@pytest.mark.parametrize(
    "columns",
    [
        {"x": np.zeros(2_000_000)},
        {"x": pa.nulls(2_000_000)},
        {"x": np.zeros(2_000_000, bool)},
        {"x": ["x" * 10_000] * 1000},
        {"x": pa.StructArray.from_arrays([pa.array(["x" * 10_000] * 1000)], names=["a"])},
    ],
)
def test_a_parquet_file_of_few_bytes_that_holds_many_is_refused(columns: Any) -> None:
    body = written(columns)
    assert len(body) < 50_000
    with pytest.raises(TooLarge):
        parquet_columns(body, UNTYPED, LIMIT)


def test_a_long_word_of_a_dictionary_is_in_memory_once() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["x" * 500_000]))
    (values,) = parquet_columns(written({"x": words}), UNTYPED, LIMIT).values()
    assert len(values) == 60
    assert len({*map(id, values)}) == 1


def test_structs_are_objects() -> None:
    things = [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": {"c": None}}, {"a": 2, "b": None}]
    assert parquet_columns(written({"x": pa.array(things)}), UNTYPED, LIMIT) == {"x": things}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([{"y": [1]}]),
        pa.array([b"x" * 100], pa.binary(100)),
    ],
)
def test_columns_that_are_not_read_are_named(column: Any) -> None:
    with pytest.raises(MalformedBody, match=r"column 'x.* of the Parquet file holds lists, maps or wide binary values"):
        parquet_columns(written({"x": column}), UNTYPED, LIMIT)


def test_several_row_groups_are_one_column() -> None:
    table = {"s": ["a", "b", "a", "c"], "n": [1, 2, 3, 4]}
    found = parquet_columns(written(table, row_group_size=2), UNTYPED, LIMIT)
    assert {name: list(values) for name, values in found.items()} == table


def test_the_index_of_pandas_is_no_column() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["x", "y"], name="id"))
    file = io.BytesIO()
    frame.to_parquet(file)
    assert list(parquet_columns(file.getvalue(), UNTYPED, LIMIT)) == ["a"]


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"index_columns": 5}', b'{"index_columns": [{}]}', b"null"])
def test_notes_of_pandas_that_make_no_sense_do_no_harm(note: bytes) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({b"pandas": note})
    file = io.BytesIO()
    parquet.write_table(table, file)
    try:
        found = parquet_columns(file.getvalue(), UNTYPED, LIMIT)
    except MalformedBody:
        return
    assert list(found) == ["a"]


def test_broken_files_are_refused_and_nothing_else() -> None:
    rng = random.Random(1)
    table = {"s": ["a", None, "b"] * 50, "n": list(range(150)), "o": [{"a": 1}, None, {"a": None}] * 50}
    for body in (written(table), written(table, compression="zstd", use_dictionary=False)):
        refused = 0
        for _ in range(500):
            broken = bytearray(body)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            try:
                parquet_columns(bytes(broken), UNTYPED, LIMIT)
            except (InvalidRequest, TooLarge):
                refused += 1
        assert refused > 100


def test_the_gateway_imports_no_pyarrow() -> None:
    code = "import sys, app.api.app; sys.exit(any(name in sys.modules for name in ('pyarrow', 'pandas', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
