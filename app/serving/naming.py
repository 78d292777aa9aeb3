"""How names and values of a request appear in messages: short, whatever the caller sent."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Sequence
from typing import Any

_LONGEST = 60
_MOST = 20
_COMPARED = 200
_JSON = {None: "null", True: "true", False: "false"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _LONGEST - 2


def short(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return _JSON[value]
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Names for a message: all, or the first 20 and how many more."""
    shown = ", ".join(short(name) for name in names[:_MOST])
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} more"


def resembling(name: str, names: Collection[str]) -> str:
    """A hint at the name that was probably meant, or nothing."""
    # Comparing is quadratic in the length and linear in the number: bounded, for both are the caller's.
    if not isinstance(name, str) or len(name) > _LONGEST or len(names) > _COMPARED:
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {short(close[0])}?)" if close else ""
