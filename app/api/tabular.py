"""Tables as CSV and as Parquet: bodies into values by column name, as pandas would read them for MLflow.

Everything here blocks, and is meant for a thread. pyarrow is imported at the first table: most gateways never get one.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput, MalformedBody, TooLarge
from app.serving.columns import Column
from app.serving.misfit import short
from app.serving.signature import Signature
from app.serving.tables import Array, Values

NULLS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Spellings of a missing value: pandas' own, quoted or not."""

_WHOLE = r"^[-+]?[0-9]+$"
_TRUTHS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_TYPED_TRUTHS = {**_TRUTHS, "1": True, "0": False}
_LONGEST = 200

_WIDEST = 32
"""Bytes of the widest decimal."""

_TEXT_ROWS, _NUMBER_ROWS = 64, 8192
"""Rows of a Parquet file that are decoded before its size is looked at again: text may be long and stored once."""


def csv_columns(body: bytes, signature: Signature) -> dict[str, Values]:
    """The columns of a CSV with a header row, in UTF-8.

    Text becomes what the signature says of its column: numbers, truth values, or text, such as ``007`` and times.
    Without a signature it is whole numbers, numbers, truth values or text, whichever all values of a column are. Text
    that is not what its column takes stays text: the signature's own check names it. A first column without a name is
    the index that pandas writes; a model with columns is not given it.

    Raises:
        MalformedBody: not a CSV; it says where it goes wrong.
        InvalidInput: two columns have one name.
    """
    names, header_rows = _header(body)
    table = _csv_table(body, len(names), header_rows)
    typed = {column.name: column for column in signature.columns}
    found: dict[str, Values] = {}
    for index, name in enumerate(names):
        column = signature.tensor or typed.get(name)
        if index == 0 and name == _unnamed(0) and typed and column is None:
            continue
        text = table.column(index).combine_chunks()
        found[name] = _inferred(text) if column is None and not typed else _typed(text, column)
    return found


def parquet_columns(body: bytes, signature: Signature, limit: int) -> dict[str, Values]:
    """The columns of a Parquet file, without those that pandas stored as its index.

    Args:
        body: the file.
        signature: times may be missing where it does not require them.
        limit: most bytes, and most values, that the file may hold when decoded.

    Raises:
        MalformedBody: not Parquet, a broken file, or a column of a type that is not read.
        InvalidInput: two columns have one name.
        TooLarge: over the limit.
    """
    import pyarrow as pa  # noqa: PLC0415  # see above
    from pyarrow import parquet  # noqa: PLC0415

    try:
        file = parquet.ParquetFile(pa.BufferReader(body))
        table = pa.Table.from_batches(_batches(file, limit), file.schema_arrow)
        table.validate(full=True)
        index = _index_columns(table.schema.pandas_metadata)
        names = [name for name in table.column_names if name not in index]
        _check_names(names)
        required = signature.required_columns
        return {name: _stored(table.column(name).combine_chunks(), name in required) for name in names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedBody(f"the body is not valid Parquet: {_brief(error)}") from None


def _batches(file: Any, limit: int) -> Iterator[Any]:
    """Some rows at a time, for what a file says of its own size need not be true: bytes may stand for gigabytes.

    pyarrow's accessors of row groups and column chunks are not used: of a broken file they end the whole process.
    """
    schema = file.metadata.schema
    leaves = [schema.column(index) for index in range(len(schema))]
    for leaf in leaves:
        if leaf.max_repetition_level or (leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > _WIDEST):
            raise MalformedBody(
                f"column {short(leaf.path)} of the Parquet file holds lists, maps or wide binary values, which are "
                "not read here: send them as JSON",
                {"column": leaf.path[:_LONGEST]},
            )
    has_text = any(leaf.physical_type == "BYTE_ARRAY" for leaf in leaves)
    size = 0
    for batch in file.iter_batches(_TEXT_ROWS if has_text else _NUMBER_ROWS, use_threads=False):
        size += max(batch.nbytes, batch.num_rows * batch.num_columns)
        if size > limit:
            raise TooLarge(
                f"the Parquet file holds more than the {limit} bytes or values that are allowed",
                {"limit_bytes": limit},
            )
        yield batch


def _header(body: bytes) -> tuple[list[str], int]:
    """The names of the columns, and the number of rows up to them, for blank lines may come first."""
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline=""))
    try:
        for count, row in enumerate(rows, 1):
            if row:
                names = [name or _unnamed(index) for index, name in enumerate(row)]
                _check_names(names)
                return names, count
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid CSV: {_brief(error)}") from None
    raise MalformedBody("the body is empty: the first row of a CSV has the names of its columns")


def _csv_table(body: bytes, width: int, header_rows: int) -> Any:
    """Every column as text with nulls, under its position for a name."""
    import pyarrow as pa  # noqa: PLC0415  # see above
    from pyarrow import csv as arrow_csv  # noqa: PLC0415

    names = [str(index) for index in range(width)]
    text = body if body.endswith((b"\n", b"\r")) else body + b"\n"  # pyarrow fails on a lone header without it
    try:
        return arrow_csv.read_csv(
            pa.BufferReader(text),
            arrow_csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=names, skip_rows_after_names=header_rows
            ),
            arrow_csv.ParseOptions(newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=list(NULLS),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        raise MalformedBody(f"the body is not valid CSV: {_brief(error)}") from None


def _typed(text: Any, column: Column | None) -> Values:
    """The text as values for a column of a signature; None for a column that it does not have."""
    if column is None:
        return _listed(text)
    if column.type == "any":
        return _inferred(text)
    if column.type == "boolean" or column.dtype == "bool":
        return [_TYPED_TRUTHS.get(word, word) for word in text.to_pylist()]
    if column.dtype and np.dtype(column.dtype).kind in "iuf":
        numbers = _numbers(text)
        return [_number(word) for word in text.to_pylist()] if numbers is None else numbers
    return _listed(text)


def _inferred(text: Any) -> Values:
    """The text as pandas reads it where nobody says what it is."""
    if text.null_count == len(text):
        return np.full(len(text), np.nan)
    numbers = _numbers(text)
    if numbers is not None:
        return numbers
    words = [math.nan if word is None else word for word in _listed(text)]
    return [_TRUTHS.get(word, word) for word in words] if {*words} - {math.nan} <= _TRUTHS.keys() else words


def _numbers(text: Any) -> Values | None:
    """The column as whole numbers if all are, else as numbers; None where one is neither."""
    import pyarrow as pa  # noqa: PLC0415  # see above
    from pyarrow import compute  # noqa: PLC0415

    text = compute.utf8_trim_whitespace(text)
    whole = compute.all(compute.match_substring_regex(text, _WHOLE)).as_py() is not False
    if whole:
        text = compute.utf8_ltrim(text, "+")
    for dtype in (pa.int64(), pa.uint64()) if whole else (pa.float64(),):
        try:
            return _plain(text.cast(dtype))
        except pa.ArrowInvalid:
            continue
    return None


def _number(word: str | None) -> Any:
    """One number; what is none stays as it is."""
    try:
        if word is None or "_" in word or not word.isascii():  # which Python allows in numbers
            return word
        return float(word) if not word.strip().lstrip("+-").isdecimal() else int(word)
    except ValueError:
        return word


def _index_columns(pandas: Any) -> list[Any]:
    """The columns of the index, by what pandas notes in a file; an index that only counts is none."""
    index = pandas.get("index_columns") if isinstance(pandas, dict) else None
    return index if isinstance(index, list) else []


def _stored(column: Any, required: bool) -> Values:
    """A column of a Parquet file."""
    import pyarrow as pa  # noqa: PLC0415  # see above
    from pyarrow import types  # noqa: PLC0415

    if types.is_timestamp(column.type) or types.is_date(column.type):
        moments = column.cast(pa.timestamp("ns"))
        return _listed(moments.cast(pa.string())) if column.null_count and required else _array(moments)
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return _plain(column)
    return _objects(column)


def _objects(column: Any) -> list[Any]:
    """Texts, bytes and structs as Python's values. What a dictionary has once is one object, however often it is."""
    from pyarrow import types  # noqa: PLC0415  # see above

    if types.is_dictionary(column.type):
        words = _objects(column.dictionary)
        return [None if index is None else words[index] for index in column.indices.to_pylist()]
    if types.is_struct(column.type):
        fields = {field.name: _objects(part) for field, part in zip(column.type, column.flatten(), strict=True)}
        rows = zip(*fields.values(), strict=True)
        missing = column.is_null().to_pylist()
        return [None if null else dict(zip(fields, row, strict=True)) for row, null in zip(rows, missing, strict=True)]
    return _listed(column)


def _plain(column: Any) -> Values:
    """Numbers or truth values as an array, or as a list where some are missing."""
    return _listed(column) if column.null_count else _array(column)


def _array(column: Any) -> Array:
    array: Array = column.to_numpy(zero_copy_only=False)
    return array


def _listed(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _check_names(names: Sequence[str]) -> None:
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise InvalidInput(f"{times} columns are named {short(name)}", {"column": name[:80]})


def _unnamed(index: int) -> str:
    return f"Unnamed: {index}"


def _brief(error: Exception) -> str:
    """The first line of what a library says about a body. It knows no paths: it was given bytes."""
    return str(error).partition("\n")[0][:_LONGEST]
