"""Content encodings of request and response bodies: gzip and deflate."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from functools import lru_cache

from app.errors import MalformedBody, TooLarge, UnsupportedMediaType

_LEVEL = 1
_THREAD_BYTES = 256 * 1024
"""From this size on a thread does the work, so that other requests do not wait for it."""


async def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompress a request body to at most `limit` bytes.

    Raises:
        UnsupportedMediaType: neither gzip nor deflate.
        MalformedBody: broken, incomplete, or followed by other bytes.
        TooLarge: more than `limit` bytes.
    """
    if len(body) < _THREAD_BYTES:
        return _decompress(body, encoding, limit)
    return await asyncio.to_thread(_decompress, body, encoding, limit)


async def compress(body: bytes, encoding: bytes) -> bytes:
    """Compress a response body with an encoding that `accepted_encoding` returned."""
    function = gzip.compress if encoding == b"gzip" else zlib.compress
    return function(body, _LEVEL) if len(body) < _THREAD_BYTES else await asyncio.to_thread(function, body, _LEVEL)


@lru_cache(maxsize=256)
def accepted_encoding(header: bytes) -> bytes:
    """Choose gzip or deflate by a request's ``accept-encoding`` (RFC 9110, 12.5.3); empty if it accepts neither."""
    weights: dict[bytes, float] = {}
    for item in header.split(b","):
        name, _, weight = item.partition(b";")
        try:
            weights[name.strip().lower()] = float(weight.partition(b"=")[2] or 1)
        except ValueError:
            continue
    other = weights.get(b"*", 0.0)
    best = max((b"gzip", b"deflate"), key=lambda name: weights.get(name, other))
    return best if weights.get(best, other) > 0 else b""


def body_too_large(limit: int) -> TooLarge:
    """Error for a body of more than `limit` bytes."""
    return TooLarge(f"the body is larger than {limit} bytes, the limit; send fewer rows", {"limit_bytes": limit})


def _decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    name = encoding.decode("latin-1")[:40]
    if name not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"unsupported content-encoding '{name}'; use gzip, deflate or identity")
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS if name == "gzip" else zlib.MAX_WBITS)
    try:
        plain = decompressor.decompress(body, limit + 1)  # bounded, because a small body can expand to gigabytes
    except zlib.error as error:
        raise MalformedBody(f"the body is not valid {name}: {error}") from None
    if len(plain) > limit:
        raise body_too_large(limit)
    if not decompressor.eof:
        raise MalformedBody(f"the {name} body is incomplete; send all of it")
    if decompressor.unused_data:
        raise MalformedBody(f"{len(decompressor.unused_data)} bytes follow the {name} body; send one {name} stream")
    return plain
