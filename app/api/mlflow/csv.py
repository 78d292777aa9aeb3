"""Reader of CSV tables: values by column name, as pandas reads them for MLflow."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from app.api.mlflow.tables import TableLimits, brief, check_names, check_width, values_of
from app.errors import MalformedBody, TooLarge
from app.serving.rows import Values
from app.serving.signatures.columns import Column
from app.serving.signatures.nested import NESTED_NAMES
from app.serving.signatures.signature import Signature

NULLS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Pandas' spellings of a missing value, quoted or not."""

_WHOLE = r"^[-+]?[0-9]+$"
_TRUTHS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_TYPED_TRUTHS = {**_TRUTHS, "1": True, "0": False}

_HEADER_BYTES = 1024**2
"""Limit on the first row of a CSV, which is parsed before the number of columns is checked."""


def csv_columns(body: bytes, signature: Signature, limits: TableLimits) -> dict[str, Values]:
    """Read the columns of a UTF-8 CSV with a header row.

    The signature decides the type of a column: numbers, booleans, or text, such as ``007`` and times. Without a
    signature, a column has the first type of integers, numbers, booleans and text that all its values fit. Text that
    does not fit its column stays text, which the signature's own validation reports. A first column without a name is
    pandas' index, and is dropped for a model with columns.

    Raises:
        MalformedBody: not a CSV.
        InvalidInput: two columns have one name.
        TooLarge: too many columns, or a header row that is too long.
    """
    names, header_rows = _header(body)
    check_width(len(names), limits)
    table = _csv_table(body, len(names), header_rows)
    typed = _types(names, signature)
    found: dict[str, Values] = {}
    for index, name in enumerate(names):
        column = signature.tensor or typed.get(name)
        if index == 0 and name == _unnamed(0) and typed and column is None:
            continue
        text = table.column(index).combine_chunks()
        found[name] = _inferred(text) if column is None and not typed else _typed(text, column)
    return found


def _types(names: list[str], signature: Signature) -> dict[str, Column]:
    """Return the columns of the signature by the names in the file: by position where the signature has no names."""
    if signature.hinted and signature.columns[0].type.partition("(")[0] in {*NESTED_NAMES, "any"}:
        return {}
    if signature.hinted or signature.is_positional:
        return dict(zip(names, signature.columns, strict=False))
    return {column.name: column for column in signature.columns}


def _header(body: bytes) -> tuple[list[str], int]:
    """Read the column names and the number of rows up to them; blank lines may come first."""
    start = body[:_HEADER_BYTES]
    if len(body) > len(start) and b"\n" not in start and b"\r" not in start:
        raise TooLarge(f"the header row of the CSV is longer than {_HEADER_BYTES} bytes")
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(start), "utf-8-sig", newline=""))
    try:
        for count, row in enumerate(rows, 1):
            if row:
                names = [name or _unnamed(index) for index, name in enumerate(row)]
                check_names(names)
                return names, count
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid CSV: {brief(error)}") from None
    raise MalformedBody("the body is empty; send a CSV whose first row has the column names")


def _csv_table(body: bytes, width: int, header_rows: int) -> Any:
    """Parse the body to text columns with nulls, named by their positions."""
    import pyarrow as pa  # noqa: PLC0415  # see tables
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
        raise MalformedBody(f"the body is not valid CSV: {brief(error)}") from None


def _typed(text: Any, column: Column | None) -> Values:
    """Convert text for a column of the signature; None for a column that the signature does not have."""
    if column is not None and column.type == "any":
        return _inferred(text)
    is_number = column is not None and column.dtype and np.dtype(column.dtype).kind in "iuf"
    numbers = _numbers(text) if is_number else None
    if numbers is not None:
        return numbers
    words: list[Any] = text.to_pylist()
    if is_number:
        return [_number(word) for word in words]
    is_boolean = column is not None and (column.type == "boolean" or column.dtype == "bool")
    return [_TYPED_TRUTHS.get(word, word) for word in words] if is_boolean else words


def _inferred(text: Any) -> Values:
    """Convert text to the type that pandas infers."""
    if text.null_count == len(text):
        return np.full(len(text), np.nan) if len(text) else []
    numbers = _numbers(text)
    if numbers is not None:
        return numbers
    words: list[Any] = [math.nan if word is None else word for word in text.to_pylist()]
    return [_TRUTHS.get(word, word) for word in words] if {*words} - {math.nan} <= _TRUTHS.keys() else words


def _numbers(text: Any) -> Values | None:
    """Convert text to integers if all are, else to numbers; None if a value is neither."""
    import pyarrow as pa  # noqa: PLC0415  # see tables
    from pyarrow import compute  # noqa: PLC0415

    text = compute.utf8_trim_whitespace(text)
    whole = compute.all(compute.match_substring_regex(text, _WHOLE)).as_py() is not False
    if whole:
        text = compute.utf8_ltrim(text, "+")
    for dtype in (pa.int64(), pa.uint64()) if whole else (pa.float64(),):
        try:
            return values_of(text.cast(dtype))
        except pa.ArrowInvalid:
            continue
    return None


def _number(word: str | None) -> Any:
    """Convert one number; other text stays as it is."""
    try:
        if word is None or "_" in word or not word.isascii():  # Python accepts both in numbers, pandas does not
            return word
        return float(word) if not word.strip().lstrip("+-").isdecimal() else int(word)
    except ValueError:
        return word


def _unnamed(index: int) -> str:
    return f"Unnamed: {index}"
