"""Parse the JSON of request bodies: strict, within a depth, and in time that grows with their length only."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any

import orjson

from app.errors import MalformedBody
from app.serving.json_depth import is_deeper, may_be_deeper

_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
# Never tries a text twice (possessive), nor begins within one that does not end: linear for every input.
_TEXT_OR_CONSTANT = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|-?\b(?:NaN|Infinity)\b')


def parse_json(body: bytes, depth: int, *, constants: bool = False) -> Any:
    """Parse strict JSON; a byte order mark may come first, as Windows programs write it.

    Args:
        constants: accept ``NaN``, ``Infinity`` and ``-Infinity``, which Python's json module writes although JSON has
            no such numbers. NaN is null.

    Raises:
        MalformedBody: not JSON, or nested deeper than `depth` levels.
    """
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
    try:
        orjson.loads(_TEXT_OR_CONSTANT.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", body))
        return json.loads(body, parse_constant=_CONSTANTS.__getitem__)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None
