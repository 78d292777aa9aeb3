"""Public keys of a token issuer: a JWKS (RFC 7517) in a file or at a URL, read again when its keys rotate."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from jwt import PyJWK

from app.errors import Unavailable

log = logging.getLogger(__name__)

AGAIN_S = 10.0
"""Minimum seconds between two fetches, however many tokens have an unknown key id."""
_FETCH_S = 5.0
_MAX_BYTES = 1024**2
_KINDS = frozenset({"RSA", "EC", "OKP"})
"""Kinds of asymmetric keys. A symmetric key would let everybody who can verify a token make one."""


class KeySet:
    """The keys of an issuer by key id.

    Args:
        source: a path, or an ``http://`` or ``https://`` URL.
        refresh_s: seconds between two fetches in the background.

    Attributes:
        current: changes with the keys.
    """

    def __init__(self, source: str, refresh_s: float) -> None:
        self._source = source
        self._refresh_s = refresh_s
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_at = float("-inf")
        self._text = b""
        self.current: Mapping[str | None, PyJWK] = MappingProxyType({})

    async def find(self, key_id: str | None) -> PyJWK | None:
        """Return the key of an id, or the only key where a token has no id; fetch the keys if it is unknown.

        Raises:
            Unavailable: the keys could not be fetched yet.
        """
        key = self._known(key_id)
        if key is None and time.monotonic() - self._fetched_at >= AGAIN_S:
            await self._refresh()
            key = self._known(key_id)
        if key is None and not self.current:
            retry_s = int(AGAIN_S)
            message = "the public keys of the token issuer are not available yet; try again"
            raise Unavailable(message, {"retry_after_s": retry_s})
        return key

    async def follow(self) -> None:
        """Fetch the keys every `refresh_s` seconds until cancelled, more often while there are none."""
        while True:
            await self._refresh()
            await asyncio.sleep(self._refresh_s if self.current else AGAIN_S)

    def _known(self, key_id: str | None) -> PyJWK | None:
        if key_id is None and len(self.current) == 1:
            return next(iter(self.current.values()))
        return self.current.get(key_id)

    async def _refresh(self) -> None:
        """Fetch the keys, once for all who wait. A failed fetch keeps the last keys."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.shield(self._fetching)  # one caller's disconnect does not end it for the others

    async def _fetch(self) -> None:
        try:
            text = await self._read()
            if text == self._text:
                return
            found = parse_keys(text)
        except Exception as error:  # of any kind: the loop that keeps the keys current must go on
            log.warning("cannot fetch the token issuer's keys, keeping %d: %s", len(self.current), _reason(error))
        else:
            self._text, self.current = text, MappingProxyType(found)
            log.info("fetched the token issuer's keys: keys=%d", len(found))
        finally:
            self._fetched_at = time.monotonic()

    async def _read(self) -> bytes:
        if not self._source.startswith(("http://", "https://")):
            return await asyncio.to_thread(_read_file, Path(self._source))
        async with httpx.AsyncClient(timeout=_FETCH_S) as client, client.stream("GET", self._source) as response:
            response.raise_for_status()
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
            return bytes(body)


def parse_keys(text: bytes) -> dict[str | None, PyJWK]:
    """Parse a JWKS; keys of unknown kinds, symmetric keys and those for encryption are left out.

    Raises:
        ValueError: the text is not a JWKS, or has no usable key.
    """
    document = json.loads(text)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a JWKS: it has no list 'keys'")  # noqa: TRY004 - one error for a wrong document
    keys: dict[str | None, PyJWK] = {}
    for one in listed:
        if isinstance(one, dict) and _text(one.get("kty")) in _KINDS and one.get("use", "sig") == "sig":
            try:
                keys[_text(one.get("kid"))] = PyJWK(one)
            except Exception:  # of any kind: one key must not keep out the others
                log.info("left out a key of the token issuer that cannot be read: kid=%r", one.get("kid"))
    if not keys:
        raise ValueError("the JWKS has no public key for signatures")
    return keys


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return str(error) or type(error).__name__
