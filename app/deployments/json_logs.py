"""Log lines as JSON objects, for programs that collect them. Nothing here imports Ray."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from app.serving.references import ModelVersion

_CONVERSION = re.compile(r"(?:(\w+)=)?%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")
_OF_SERVE = ("request_id", "route", "deployment", "replica", "node_id")
"""Attributes that Ray Serve adds to records."""


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: a JSON object with the time, the level, the logger, the message and its facts.

    Facts are what the message names, as in ``"lane opened: pool=%r member=%s"``, so each ``key=value`` is a field too.
    A `ModelVersion` becomes the fields ``model`` and ``version``. A mapping under ``facts`` in `extra` adds others.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        facts = {name: getattr(record, name) for name in _OF_SERVE if getattr(record, name, None) is not None}
        facts.update(_facts(record))
        for name, value in facts.items():
            line.setdefault(name, value if isinstance(value, str | int | float | None) else str(value))
        return json.dumps(line, default=str)


def write_json(handler: logging.Handler) -> None:
    """Let a handler write JSON; one that buffers records, as Serve's does, has another that writes them."""
    (getattr(handler, "target", None) or handler).setFormatter(JsonFormatter())


def _facts(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    if isinstance(record.args, tuple):
        for name, value in zip(_names(str(record.msg)), record.args, strict=False):
            if isinstance(value, ModelVersion):
                yield from (("model", value.name), ("version", value.version))
            elif name is not None:
                yield name, value
    facts = getattr(record, "facts", None)
    if isinstance(facts, Mapping):
        yield from facts.items()


@lru_cache(maxsize=1024)
def _names(message: str) -> tuple[str | None, ...]:
    """Return the name in front of each conversion of a message, None where there is none."""
    return tuple(name or None for name, kind in _CONVERSION.findall(message) if kind != "%")
