"""Nesting depth of JSON, checked in linear time."""

from __future__ import annotations

from typing import Any

_CONTAINERS = {dict, list}
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_deeper(value: Any, depth: int) -> bool:
    """Whether parsed JSON is nested deeper than so many levels."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(depth):
        # Most lists hold none; to know it costs no Python work per item.
        parts = [item.values() if isinstance(item, dict) else item for item in level]
        parts = [part for part in parts if not _CONTAINERS.isdisjoint(map(type, part))]
        level = [child for part in parts for child in part if type(child) in _CONTAINERS]
    return bool(level)


def may_be_deeper(text: bytes, depth: int) -> bool:
    """Whether JSON text, which is well-formed, may be nested deeper than so many levels: a cheap look at its brackets.

    False is certain. True may come from brackets inside of strings; `is_deeper` tells.
    """
    brackets = text.translate(_AS_SQUARE, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # one level less: what holds no other container is taken away
    return bool(brackets)
