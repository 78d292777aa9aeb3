"""Linear-time checks of the nesting depth of JSON."""

from __future__ import annotations

from typing import Any

_CONTAINERS = {dict, list}
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_deeper(value: Any, depth: int) -> bool:
    """Return whether parsed JSON is nested deeper than `depth` levels."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(depth):
        # Most lists hold no containers, which this finds without Python work per item.
        parts = [item.values() if isinstance(item, dict) else item for item in level]
        parts = [part for part in parts if not _CONTAINERS.isdisjoint(map(type, part))]
        level = [child for part in parts for child in part if type(child) in _CONTAINERS]
    return bool(level)


def may_be_deeper(text: bytes, depth: int) -> bool:
    """Return whether well-formed JSON text may be nested deeper than `depth` levels, from its brackets alone.

    False is certain. True may be wrong because of brackets inside strings: then `is_deeper` decides.
    """
    brackets = text.translate(_AS_SQUARE, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # remove the innermost containers
    return bool(brackets)
