"""Reader of Parquet tables: values by column name, as pandas reads them for MLflow."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from app.api.mlflow.tables import Table, TableLimits, brief, check_names, check_width, values_of
from app.errors import MalformedBody, TooLarge
from app.serving.rows import RowLabels, Values
from app.serving.signatures.validation_errors import short

_DECIMAL_BYTES = 32
"""Size of the widest decimal."""

_MOST_LEVELS = 32
"""Limit on the levels of pandas' index."""

_TEXT_ROWS, _NUMBER_ROWS = 64, 8192
"""Rows to decode between checks of the size: a long text may be stored once and repeated in every row."""


def parquet_table(body: bytes, required: Collection[str], limits: TableLimits) -> Table:
    """Read the columns of a Parquet file, and the labels of pandas' index; None for 0, 1, and so on.

    The limits apply to the decoded file. Times may be missing in columns that are not `required`.

    Raises:
        MalformedBody: not Parquet, a broken file, or a column of an unsupported type.
        InvalidInput: two columns have one name.
        TooLarge: a limit is exceeded, or memory does not suffice.
    """
    import pyarrow as pa  # noqa: PLC0415  # see tables
    from pyarrow import parquet  # noqa: PLC0415

    try:
        file = parquet.ParquetFile(pa.BufferReader(body))
        table = pa.Table.from_batches(_batches(file, limits), file.schema_arrow)
        table.validate(full=True)
        index = _index_levels(table.schema.pandas_metadata)
        names = [name for name in table.column_names if name not in index]
        check_names(names)
        columns = {name: _stored(table.column(name).combine_chunks(), name in required) for name in names}
        return columns, _labels(table, index)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise MalformedBody(f"the body is not valid Parquet: {brief(error)}") from None
    except MemoryError:
        raise TooLarge("the decoded Parquet file does not fit into memory; send fewer rows") from None


def _batches(file: Any, limits: TableLimits) -> Iterator[Any]:
    """Decode some rows at a time: a few bytes may expand to gigabytes, whatever size the file declares.

    pyarrow's accessors of row groups and column chunks are not used: with a broken file they end the process.
    """
    schema = file.metadata.schema
    check_width(len(schema), limits)
    leaves = [schema.column(index) for index in range(len(schema))]
    for leaf in leaves:
        if leaf.max_repetition_level or (leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > _DECIMAL_BYTES):
            raise MalformedBody(
                f"column {short(leaf.path)} of the Parquet file holds lists, maps or wide binary values; "
                "send them as JSON",
                {"column": leaf.path[:80]},
            )
    has_text = any(leaf.physical_type == "BYTE_ARRAY" for leaf in leaves)
    size = rows = 0
    for batch in file.iter_batches(_TEXT_ROWS if has_text else _NUMBER_ROWS, use_threads=False):
        rows += batch.num_rows  # of a table without columns, nothing else is counted
        if rows > limits.rows:
            raise TooLarge(f"the Parquet file has more than {limits.rows} rows; send fewer", {"limit": limits.rows})
        size += max(batch.nbytes, batch.num_rows * batch.num_columns)
        if size > limits.nbytes:
            raise TooLarge(
                f"the decoded Parquet file has more than {limits.nbytes} bytes or values; send fewer rows",
                {"limit_bytes": limits.nbytes},
            )
        yield batch


def _index_levels(pandas: Any) -> list[Any]:
    """Return the index columns in pandas' metadata; an index that only counts has none."""
    index = pandas.get("index_columns") if isinstance(pandas, dict) else None
    if not isinstance(index, list):
        return []
    if len(index) > _MOST_LEVELS:
        raise MalformedBody(
            f"the index of the Parquet file has {len(index)} levels; at most {_MOST_LEVELS} are allowed",
            {"limit": _MOST_LEVELS},
        )
    twice = next((level for place, level in enumerate(index) if level in index[:place]), None)
    if twice is not None:
        raise MalformedBody(f"the index of the Parquet file has the level {short(twice)} twice")
    return index


def _labels(table: Any, index: list[Any]) -> RowLabels | None:
    """Read the labels as pandas does: what does not fit the table is left out."""
    fields = (
        {one.get("field_name"): one.get("name") for one in table.schema.pandas_metadata["columns"]} if index else {}
    )
    stored = set(table.column_names)
    levels: list[tuple[str | None, list[Any]]] = []
    for level in index:
        if isinstance(level, dict) and level.get("kind") == "range":
            count = range(level["start"], level["stop"], level["step"])
            if len(count) == table.num_rows and count != range(table.num_rows):
                levels.append((_level_name(level.get("name")), list(count)))
        elif isinstance(level, str) and level in stored:
            values = _stored(table.column(level).combine_chunks(), required=False)
            levels.append((_level_name(fields.get(level)), list(values)))
    if not levels or not table.num_rows:
        return None
    names, columns = zip(*levels, strict=True)
    return RowLabels(tuple(columns[0] if len(columns) == 1 else zip(*columns, strict=True)), names)


def _level_name(name: Any) -> str | None:
    if not isinstance(name, str | None):
        raise MalformedBody(f"the index of the Parquet file has a level called {short(name)}, expected a text or null")
    return name


def _stored(column: Any, required: bool) -> Values:
    import pyarrow as pa  # noqa: PLC0415  # see tables
    from pyarrow import types  # noqa: PLC0415

    if types.is_timestamp(column.type) or types.is_date(column.type):
        moments = column.cast(pa.timestamp("ns"))
        # A null in a required column is an error for the signature to report; as an array it would be NaT.
        missing = column.null_count and required
        stored: Values = moments.cast(pa.string()).to_pylist() if missing else moments.to_numpy(zero_copy_only=False)
        return stored
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return values_of(column)
    return _objects(column)


def _objects(column: Any) -> list[Any]:
    """Convert texts, bytes and structs to Python values. A value of a dictionary is one object in all its rows."""
    from pyarrow import types  # noqa: PLC0415  # see tables

    if types.is_dictionary(column.type):
        words = _objects(column.dictionary)
        return [None if index is None else words[index] for index in column.indices.to_pylist()]
    if types.is_struct(column.type):
        fields = {field.name: _objects(part) for field, part in zip(column.type, column.flatten(), strict=True)}
        rows = zip(*fields.values(), strict=True)
        missing = column.is_null().to_pylist()
        return [None if null else dict(zip(fields, row, strict=True)) for row, null in zip(rows, missing, strict=True)]
    values: list[Any] = column.to_pylist()
    return values
