"""Content encodings of request and response bodies: gzip and deflate."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from functools import lru_cache

from app.errors import MalformedBody, TooLarge, UnsupportedMediaType

_LEVEL = 1
_THREAD_BYTES = 256 * 1024
"""From this size on a thread does the work, so that other requests do not wait for it."""
_GZIP_START = b"\x1f\x8b"
_FEW_MEMBERS = 16
"""Members of a gzip body up to which the event loop decompresses it: each takes some microseconds, however small."""


async def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompress a request body to at most `limit` bytes.

    Args:
        encoding: the header ``content-encoding`` (RFC 9110, 8.4), in any case; ``x-gzip`` is gzip.

    Raises:
        UnsupportedMediaType: neither gzip nor deflate.
        MalformedBody: broken, incomplete, or followed by other bytes.
        TooLarge: more than `limit` bytes.
    """
    name = encoding.decode("latin-1").strip().lower()
    name = "gzip" if name == "x-gzip" else name
    if name == "identity":
        return body
    if name not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"unsupported content-encoding '{name[:40]}'; use gzip, deflate or identity")
    function = _decompress_gzip if name == "gzip" else _decompress_deflate
    if len(body) < _THREAD_BYTES and body.count(_GZIP_START) <= _FEW_MEMBERS:
        return function(body, limit)
    return await asyncio.to_thread(function, body, limit)


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


def _decompress_gzip(body: bytes, limit: int) -> bytes:
    """Decompress all members of a gzip body (RFC 1952, 2.2)."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            plain = file.read(limit + 1)  # bounded, because a small body can expand to gigabytes
    except EOFError:
        raise MalformedBody("the gzip body is incomplete; send all of it") from None
    except (OSError, zlib.error) as error:
        raise MalformedBody(f"the body is not valid gzip: {error}") from None
    if len(plain) > limit:
        raise body_too_large(limit)
    return plain


def _decompress_deflate(body: bytes, limit: int) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedBody(f"the body is not valid deflate: {error}") from None
    if len(plain) > limit:
        raise body_too_large(limit)
    if not decompressor.eof:
        raise MalformedBody("the deflate body is incomplete; send all of it")
    if decompressor.unused_data:
        raise MalformedBody(f"{len(decompressor.unused_data)} bytes follow the deflate body; send one deflate stream")
    return plain
