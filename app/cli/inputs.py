"""Parsers of arguments: JSON from an argument, a file or stdin, and ``key=value`` pairs.

They raise `typer.BadParameter`, a usage error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer


def read_json(argument: str | None, file: Path | None) -> Any:
    """Read JSON from a file or an argument; from stdin where the argument is ``-`` or missing."""
    if file is not None:
        if argument is not None:
            raise typer.BadParameter("give the JSON as an argument or with --file, not both")
        return _parse(_text(file), str(file))
    if argument is None and sys.stdin.isatty():
        raise typer.BadParameter("no rows: give JSON as an argument, with --file, or on standard input")
    if argument in (None, "-"):
        return _parse(sys.stdin.read(), "standard input")
    return _parse(argument, "the argument")


def read_rows(argument: str | None, file: Path | None) -> dict[str, Any] | list[Any]:
    """Read a row, or a list of rows."""
    rows = read_json(argument, file)
    if not isinstance(rows, dict | list):
        raise typer.BadParameter("the JSON must be an object, for one row, or a list of rows")
    return rows


def read_object(argument: str | None, file: Path | None) -> dict[str, Any]:
    """Read columns by name."""
    columns = read_json(argument, file)
    if not isinstance(columns, dict):
        raise typer.BadParameter("with --entity the JSON must be an object of columns")
    return columns


def read_pair(text: str) -> tuple[str, Any]:
    """Parse ``key=value``. A value that is not JSON is text, so that ``id=oil`` needs no quotes."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise typer.BadParameter(f"'{text}' is not of the form key=value")
    try:
        return key, _strict(value)
    except ValueError:
        return key, value


def read_entity(text: str) -> dict[str, Any]:
    """Parse the join keys of one entity: ``key=value``, separated by commas, or a JSON object."""
    if text.lstrip().startswith("{"):
        return dict(_parse(text, "--entity"))
    return dict(read_pair(pair) for pair in text.split(","))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None


def _parse(text: str | None, source: str) -> Any:
    try:
        return _strict(text or "")
    except ValueError as error:
        raise typer.BadParameter(f"{source} is not valid JSON: {error}") from None


def _strict(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; write null")
