"""Replies with what a model has answered."""

from __future__ import annotations

import json
from typing import Any

from app.api.http.exchange import Reply, dump
from app.serving.json_output import UNSENDABLE, unsendable


def versioned_reply(body: Any, version: str) -> Reply:
    """Serialize a body of Python's own types to JSON, and name the model version in a header.

    Raises:
        ModelFailed: a value is nested too deep, or is a whole number of thousands of digits.
    """
    try:
        content = dump(body)
    except TypeError:  # a whole number of more than 64 bits, half a character, or deeper than 254 levels
        try:
            content = json.dumps(body, separators=(",", ":")).encode()
        except UNSENDABLE as error:
            raise unsendable() from error
    return Reply(content, headers=((b"x-model-version", version.encode()),))
