"""Tables as Parquet: a file into values by column name, as pandas would read it for MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.api.mlflow.tables import TableLimits, as_list, as_numpy, brief, check_names, check_width, plain
from app.errors import MalformedBody, TooLarge
from app.serving.rows import Values
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import short

_WIDEST = 32
"""Bytes of the widest decimal."""

_TEXT_ROWS, _NUMBER_ROWS = 64, 8192
"""Rows of a Parquet file that are decoded before its size is looked at again: text may be long and stored once."""


def parquet_columns(body: bytes, signature: Signature, limits: TableLimits) -> dict[str, Values]:
    """The columns of a Parquet file, without those that pandas stored as its index.

    Args:
        body: the file.
        signature: times may be missing where it does not require them.
        limits: what the file may hold when decoded.

    Raises:
        MalformedBody: not Parquet, a broken file, or a column of a type that is not read.
        InvalidInput: two columns have one name.
        TooLarge: over a limit.
    """
    import pyarrow as pa  # noqa: PLC0415  # see tabular
    from pyarrow import parquet  # noqa: PLC0415

    try:
        file = parquet.ParquetFile(pa.BufferReader(body))
        table = pa.Table.from_batches(_batches(file, limits), file.schema_arrow)
        table.validate(full=True)
        index = _index_columns(table.schema.pandas_metadata)
        names = [name for name in table.column_names if name not in index]
        check_names(names)
        required = signature.required_columns
        return {name: _stored(table.column(name).combine_chunks(), name in required) for name in names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedBody(f"the body is not valid Parquet: {brief(error)}") from None


def _batches(file: Any, limits: TableLimits) -> Iterator[Any]:
    """Some rows at a time, for what a file says of its own size need not be true: bytes may stand for gigabytes.

    pyarrow's accessors of row groups and column chunks are not used: of a broken file they end the whole process.
    """
    schema = file.metadata.schema
    check_width(len(schema), limits)
    leaves = [schema.column(index) for index in range(len(schema))]
    for leaf in leaves:
        if leaf.max_repetition_level or (leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > _WIDEST):
            raise MalformedBody(
                f"column {short(leaf.path)} of the Parquet file holds lists, maps or wide binary values, which are "
                "not read here: send them as JSON",
                {"column": leaf.path[:80]},
            )
    has_text = any(leaf.physical_type == "BYTE_ARRAY" for leaf in leaves)
    size = 0
    for batch in file.iter_batches(_TEXT_ROWS if has_text else _NUMBER_ROWS, use_threads=False):
        size += max(batch.nbytes, batch.num_rows * batch.num_columns)
        if size > limits.nbytes:
            raise TooLarge(
                f"the Parquet file holds more than the {limits.nbytes} bytes or values that are allowed",
                {"limit_bytes": limits.nbytes},
            )
        yield batch


def _index_columns(pandas: Any) -> list[Any]:
    """The columns of the index, by what pandas notes in a file; an index that only counts is none."""
    index = pandas.get("index_columns") if isinstance(pandas, dict) else None
    return index if isinstance(index, list) else []


def _stored(column: Any, required: bool) -> Values:
    """A column of a Parquet file."""
    import pyarrow as pa  # noqa: PLC0415  # see tabular
    from pyarrow import types  # noqa: PLC0415

    if types.is_timestamp(column.type) or types.is_date(column.type):
        moments = column.cast(pa.timestamp("ns"))
        return as_list(moments.cast(pa.string())) if column.null_count and required else as_numpy(moments)
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return plain(column)
    return _objects(column)


def _objects(column: Any) -> list[Any]:
    """Texts, bytes and structs as Python's values. What a dictionary has once is one object, however often it is."""
    from pyarrow import types  # noqa: PLC0415  # see tabular

    if types.is_dictionary(column.type):
        words = _objects(column.dictionary)
        return [None if index is None else words[index] for index in column.indices.to_pylist()]
    if types.is_struct(column.type):
        fields = {field.name: _objects(part) for field, part in zip(column.type, column.flatten(), strict=True)}
        rows = zip(*fields.values(), strict=True)
        missing = column.is_null().to_pylist()
        return [None if null else dict(zip(fields, row, strict=True)) for row, null in zip(rows, missing, strict=True)]
    return as_list(column)
