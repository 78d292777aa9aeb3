"""Parse the JSON of request bodies: strict, within a depth, and in time that grows with their length only."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from typing import Any

import orjson

from app.errors import MalformedBody, TooLarge
from app.serving.json_depth import is_deeper, may_be_deeper

_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_CONTAINERS = 1_000_000
"""Arrays and objects in one body. Each takes at least 56 bytes of memory, and of time as much as ten numbers."""
_FEW_BYTES = 2 * _MAX_CONTAINERS  # each takes two bytes of text


def parse_json(body: bytes, depth: int, max_bytes: int = 2**24, *, constants: bool = False) -> Any:
    """Parse strict JSON; a byte order mark may come first, as Windows programs write it.

    Args:
        constants: accept ``NaN``, ``Infinity`` and ``-Infinity``, which Python's json module writes although JSON has
            no such numbers. NaN is null.

    Raises:
        MalformedBody: not JSON, or nested deeper than `depth` levels.
        TooLarge: more than `max_bytes` bytes, or too many arrays and objects.
    """
    if len(body) > max_bytes:
        raise TooLarge(
            f"the JSON is larger than {max_bytes} bytes, the limit; send fewer rows, or binary tensors, Parquet or CSV",
            {"limit_bytes": max_bytes},
        )
    if len(body) > _FEW_BYTES and body.count(b"[") + body.count(b"{") > _MAX_CONTAINERS:
        raise TooLarge(
            f"the body has more than {_MAX_CONTAINERS} arrays and objects, the limit; send fewer rows, or columns "
            "instead of rows",
            {"limit_containers": _MAX_CONTAINERS},
        )
    if body.startswith(BOM_UTF8):
        body = body.removeprefix(BOM_UTF8)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not constants or not (b"NaN" in body or b"Infinity" in body):
            text = "the body is empty; send a JSON object" if not body else f"the body is not valid JSON: {error}"
            raise MalformedBody(text) from None
        value = _parse_constants(body)
    if may_be_deeper(body, depth) and is_deeper(value, depth):
        raise MalformedBody(f"the body is nested deeper than {depth} levels, the limit")
    return value


def _parse_constants(body: bytes) -> Any:
    """Parse JSON with constants, and be as strict as without: Python's parser alone accepts half a character."""
    # Texts that have such a word change too, but stay as valid as they were.
    without = body.replace(b"-Infinity", b"null").replace(b"Infinity", b"null").replace(b"NaN", b"null")
    try:
        orjson.loads(without)
        return json.loads(body, parse_constant=_CONSTANTS.__getitem__)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None
