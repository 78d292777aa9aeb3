"""Which members of a pool hold a version: every process gets the same answer from the members' names alone.

Rendezvous hashing: each version ranks all members by a hash of both names, and the first ones hold its copies. A member
that leaves moves only what it held, and one that joins takes an equal share.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from app.serving.references import ModelVersion


@lru_cache(maxsize=16_384)  # more than the versions that one process places
def ranked(members: frozenset[str], version: ModelVersion) -> tuple[str, ...]:
    """Return all members of a pool, those that should hold the version first."""

    def weight(member: str) -> bytes:
        return hashlib.blake2b(f"{version}\0{member}".encode(), digest_size=8).digest()

    return tuple(sorted(members, key=weight, reverse=True))
