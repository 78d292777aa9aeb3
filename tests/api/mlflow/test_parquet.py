from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.api.mlflow.parquet import parquet_columns
from app.api.mlflow.tables import TableLimits
from app.errors import InvalidRequest, MalformedBody, TooLarge
from app.serving.signatures.signature import Signature

UNTYPED = Signature.compile(None)
LIMITS = TableLimits(columns=100, nbytes=1_000_000)


def written(columns: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


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
        parquet_columns(body, UNTYPED, LIMITS)


def test_dictionary_values_are_shared_between_rows() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["x" * 500_000]))
    (values,) = parquet_columns(written({"x": words}), UNTYPED, LIMITS).values()
    assert len(values) == 60
    assert len({*map(id, values)}) == 1


def test_structs_become_objects() -> None:
    things = [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": {"c": None}}, {"a": 2, "b": None}]
    assert parquet_columns(written({"x": pa.array(things)}), UNTYPED, LIMITS) == {"x": things}


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
        parquet_columns(written({"x": column}), UNTYPED, LIMITS)


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(TooLarge, match="101 columns"):
        parquet_columns(written({f"c{number}": [1] for number in range(101)}), UNTYPED, LIMITS)


def test_row_groups_are_joined_into_one_column() -> None:
    table = {"s": ["a", "b", "a", "c"], "n": [1, 2, 3, 4]}
    found = parquet_columns(written(table, row_group_size=2), UNTYPED, LIMITS)
    assert {name: list(values) for name, values in found.items()} == table


def test_pandas_index_is_dropped() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["x", "y"], name="id"))
    file = io.BytesIO()
    frame.to_parquet(file)
    assert list(parquet_columns(file.getvalue(), UNTYPED, LIMITS)) == ["a"]


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"index_columns": 5}', b'{"index_columns": [{}]}', b"null"])
def test_malformed_pandas_metadata_is_ignored(note: bytes) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({b"pandas": note})
    file = io.BytesIO()
    parquet.write_table(table, file)
    try:
        found = parquet_columns(file.getvalue(), UNTYPED, LIMITS)
    except MalformedBody:
        return
    assert list(found) == ["a"]


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
                parquet_columns(bytes(broken), UNTYPED, LIMITS)
            except (InvalidRequest, TooLarge):
                refused += 1
        assert refused > 100
