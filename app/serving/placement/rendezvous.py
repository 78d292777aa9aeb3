"""Which members of a pool hold a version: every process gets the same answer from the members' names alone.

Rendezvous hashing: each version ranks all members by a hash of both names, and the first ones hold its copies. A member
that leaves moves only what it held, and one that joins takes an equal share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cachetools import LRUCache

from app.serving.references import ModelVersion

_CACHED = 8192
"""Ranks that one ring remembers: more versions than one pool serves."""


class Ring:
    """The members of one pool at one time, by name."""

    def __init__(self, members: Iterable[str]) -> None:
        self.members = frozenset(members)
        self._ranked: LRUCache[ModelVersion, tuple[str, ...]] = LRUCache(_CACHED)

    def ranked(self, version: ModelVersion) -> Sequence[str]:
        """Return all members, those that should hold the version first."""
        found = self._ranked.get(version)
        if found is None:
            found = self._ranked[version] = tuple(
                sorted(self.members, key=lambda member: _weight(version, member), reverse=True)
            )
        return found

    def holders(self, version: ModelVersion, copies: int) -> Sequence[str]:
        """Return the members that should hold the copies of a version; all members where there are fewer."""
        return self.ranked(version)[:copies]


def _weight(version: ModelVersion, member: str) -> bytes:
    return hashlib.blake2b(f"{version}\0{member}".encode(), digest_size=8).digest()
