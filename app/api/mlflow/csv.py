"""Tables as CSV: text into values by column name, as pandas would read it for MLflow."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from app.api.mlflow.tables import TableLimits, as_list, brief, check_names, check_width, plain
from app.errors import MalformedBody, TooLarge
from app.serving.rows import Values
from app.serving.signatures.columns import Column
from app.serving.signatures.signature import Signature

NULLS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Spellings of a missing value: pandas' own, quoted or not."""

_WHOLE = r"^[-+]?[0-9]+$"
_TRUTHS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_TYPED_TRUTHS = {**_TRUTHS, "1": True, "0": False}

_HEADER_BYTES = 1024**2
"""Longest first row of a CSV: it is looked at before it is known to have but so many columns."""


def csv_columns(body: bytes, signature: Signature, limits: TableLimits) -> dict[str, Values]:
    """The columns of a CSV with a header row, in UTF-8.

    Text becomes what the signature says of its column: numbers, truth values, or text, such as ``007`` and times.
    Without a signature it is whole numbers, numbers, truth values or text, whichever all values of a column are. Text
    that is not what its column takes stays text: the signature's own check names it. A first column without a name is
    the index that pandas writes; a model with columns is not given it.

    Raises:
        MalformedBody: not a CSV; it says where it goes wrong.
        InvalidInput: two columns have one name.
        TooLarge: too many columns, or names that are too long.
    """
    names, header_rows = _header(body)
    check_width(len(names), limits)
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


def _header(body: bytes) -> tuple[list[str], int]:
    """The names of the columns, and the number of rows up to them, for blank lines may come first."""
    start = body[:_HEADER_BYTES]
    if len(body) > len(start) and b"\n" not in start and b"\r" not in start:
        raise TooLarge(f"the first row of the CSV is longer than {_HEADER_BYTES} bytes")
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(start), "utf-8-sig", newline=""))
    try:
        for count, row in enumerate(rows, 1):
            if row:
                names = [name or _unnamed(index) for index, name in enumerate(row)]
                check_names(names)
                return names, count
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid CSV: {brief(error)}") from None
    raise MalformedBody("the body is empty: the first row of a CSV has the names of its columns")


def _csv_table(body: bytes, width: int, header_rows: int) -> Any:
    """Every column as text with nulls, under its position for a name."""
    import pyarrow as pa  # noqa: PLC0415  # see tabular
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
    """The text as values for a column of a signature; None for a column that it does not have."""
    if column is None:
        return as_list(text)
    if column.type == "any":
        return _inferred(text)
    if column.type == "boolean" or column.dtype == "bool":
        return [_TYPED_TRUTHS.get(word, word) for word in text.to_pylist()]
    if column.dtype and np.dtype(column.dtype).kind in "iuf":
        numbers = _numbers(text)
        return [_number(word) for word in text.to_pylist()] if numbers is None else numbers
    return as_list(text)


def _inferred(text: Any) -> Values:
    """The text as pandas reads it where nobody says what it is."""
    if text.null_count == len(text):
        return np.full(len(text), np.nan)
    numbers = _numbers(text)
    if numbers is not None:
        return numbers
    words: list[Any] = [math.nan if word is None else word for word in as_list(text)]
    return [_TRUTHS.get(word, word) for word in words] if {*words} - {math.nan} <= _TRUTHS.keys() else words


def _numbers(text: Any) -> Values | None:
    """The column as whole numbers if all are, else as numbers; None where one is neither."""
    import pyarrow as pa  # noqa: PLC0415  # see tabular
    from pyarrow import compute  # noqa: PLC0415

    text = compute.utf8_trim_whitespace(text)
    whole = compute.all(compute.match_substring_regex(text, _WHOLE)).as_py() is not False
    if whole:
        text = compute.utf8_ltrim(text, "+")
    for dtype in (pa.int64(), pa.uint64()) if whole else (pa.float64(),):
        try:
            return plain(text.cast(dtype))
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


def _unnamed(index: int) -> str:
    return f"Unnamed: {index}"
