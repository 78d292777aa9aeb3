from __future__ import annotations

import io
import json
import random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.api.mlflow.parquet import parquet_table
from app.api.mlflow.tables import TableLimits
from app.errors import InvalidRequest, MalformedBody, TooLarge
from app.serving.rows import RowLabels

LONG = b'{"columns": [], "index_columns": [{"kind": "range", "start": 0, "stop": 1e9, "step": 1}, "b", 3]}'
LIMITS = TableLimits(columns=100, nbytes=1_000_000, rows=10_000_000)


def written(columns: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def columns_of(body: bytes) -> dict[str, Any]:
    return parquet_table(body, (), LIMITS)[0]


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
def test_decompression_bombs_are_refused(columns: Any) -> None:
    body = written(columns)
    assert len(body) < 50_000
    with pytest.raises(TooLarge):
        parquet_table(body, (), LIMITS)


def test_dictionary_values_are_shared_between_rows() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["x" * 500_000]))
    (values,) = columns_of(written({"x": words})).values()
    assert len(values) == 60
    assert len({*map(id, values)}) == 1


def test_structs_become_objects() -> None:
    things = [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": {"c": None}}, {"a": 2, "b": None}]
    assert columns_of(written({"x": pa.array(things)})) == {"x": things}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([{"y": [1]}]),
        pa.array([b"x" * 100], pa.binary(100)),
    ],
)
def test_unsupported_columns_are_named(column: Any) -> None:
    with pytest.raises(MalformedBody, match=r"column 'x.* of the Parquet file holds lists, maps or wide binary values"):
        columns_of(written({"x": column}))


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(TooLarge, match="101 columns"):
        columns_of(written({f"c{number}": [1] for number in range(101)}))


def test_row_groups_are_joined_into_one_column() -> None:
    table = {"s": ["a", "b", "a", "c"], "n": [1, 2, 3, 4]}
    found = columns_of(written(table, row_group_size=2))
    assert {name: list(values) for name, values in found.items()} == table


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (None, None),
        (pd.RangeIndex(5, 9, 2), RowLabels((5, 7))),
        (pd.Index(["x", "y"], name="id"), RowLabels(("x", "y"), ("id",))),
        (
            pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["a", None]),
            RowLabels((("x", 1), ("y", 2)), ("a", None)),
        ),
    ],
)
def test_pandas_index_is_labels(index: Any, labels: RowLabels | None) -> None:
    file = io.BytesIO()
    pd.DataFrame({"v": [1.0, 2.0]}, index=index).to_parquet(file)
    columns, found = parquet_table(file.getvalue(), (), LIMITS)
    assert (list(columns), found) == (["v"], labels)


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"index_columns": 5}', b'{"index_columns": [{}]}', b"null", LONG])
def test_malformed_pandas_metadata_is_ignored(note: bytes) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({b"pandas": note})
    file = io.BytesIO()
    parquet.write_table(table, file)
    try:
        found = columns_of(file.getvalue())
    except MalformedBody:
        return
    assert list(found) == ["a"]


def noted(note: dict[str, Any], rows: int = 2) -> bytes:
    """Write a file with this metadata of pandas."""
    table = pa.table({"a": [1] * rows, "b": [2] * rows})
    file = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({b"pandas": json.dumps({"columns": [], **note}).encode()}), file)
    return file.getvalue()


RANGE = {"kind": "range", "start": 1, "stop": 3, "step": 1}


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ({"index_columns": [{**RANGE, "name": str(level)} for level in range(33)]}, "has 33 levels; at most 32"),
        ({"index_columns": [RANGE, RANGE]}, "has the level .* twice"),
        ({"index_columns": ["a", "a"]}, "has the level 'a' twice"),
        ({"index_columns": [{**RANGE, "name": [1]}]}, r"a level called \[1\], expected a text or null"),
        ({"index_columns": ["a"], "columns": [{"field_name": "a", "name": [1]}]}, r"a level called \[1\], expected"),
        ({"index_columns": ["a"], "columns": [{"field_name": "a", "name": 1}]}, "a level called 1, expected"),
    ],
)
def test_crafted_index_is_refused(note: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedBody, match=message):
        parquet_table(noted(note), (), LIMITS)


def test_too_many_rows_are_refused_before_their_labels() -> None:
    body = noted({"index_columns": [{**RANGE, "stop": 102}]}, rows=101)
    with pytest.raises(TooLarge, match="more than 100 rows"):
        parquet_table(body, (), TableLimits(columns=100, nbytes=1_000_000, rows=100))


def test_broken_files_are_refused() -> None:
    rng = random.Random(1)
    table = {"s": ["a", None, "b"] * 50, "n": list(range(150)), "o": [{"a": 1}, None, {"a": None}] * 50}
    for body in (written(table), written(table, compression="zstd", use_dictionary=False)):
        refused = 0
        for _ in range(500):
            broken = bytearray(body)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            try:
                columns_of(bytes(broken))
            except (InvalidRequest, TooLarge):
                refused += 1
        assert refused > 100
