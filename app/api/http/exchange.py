"""One HTTP request on a hot route: plain ASGI, read once, answered once.

On a prototype FastAPI's own machinery cost a quarter to a third of a gateway's CPU under load, so the endpoints that
predict are handlers of an `Exchange`, put in front of its router by `app.api.app`. FastAPI has the same handlers as
routes for the documented schema.
"""

from __future__ import annotations

import asyncio
import gzip
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import orjson
from starlette.types import Message, Receive, Scope, Send

from app.api.http.serve_middleware import TIMEOUT_HEADER, TIMEOUT_KEY
from app.errors import (
    CallerGone,
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    ServingError,
    TooLarge,
    UnsupportedMediaType,
)
from app.serving.json_depth import is_deeper, may_be_deeper

T = TypeVar("T")

SESSION_HEADER = b"x-session-id"
_LEVEL = 1
_THREAD_BYTES = 256 * 1024
"""Bodies of this size are compressed and decompressed in a thread: others shall not wait for it."""
_MAX_REQUEST_ID = 128
_DEADLINE_MARGIN = 0.1
_MAX_DEADLINE_MARGIN_S = 0.5
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds that are checked while a request is read; `gzip_bytes` is the smallest answer that is compressed.

    `echo_request_id` says whether replies carry `x-request-id`: not where the server in front adds it to every answer
    itself, as Ray Serve's does.
    """

    body_bytes: int
    json_depth: int
    timeout_s: float
    gzip_bytes: int = 16 * 1024
    echo_request_id: bool = True


class Reply(NamedTuple):
    """What goes back: a body, JSON where nothing else is said, and headers beside the ones that every reply has."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class Exchange:
    """A request being answered.

    `received` is event loop time, `has_body` tells that the body has been read, `is_abandoned` that the caller has
    gone.
    """

    __slots__ = ("_limits", "_receive", "_request_id", "has_body", "headers", "is_abandoned", "received", "scope")

    def __init__(self, scope: Scope, receive: Receive, limits: HttpLimits) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.received = asyncio.get_running_loop().time()
        self._receive = receive
        self._limits = limits
        self._request_id: bytes | None = None
        self.has_body = scope["method"] in _WITHOUT_BODY
        self.is_abandoned = False

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, or one made here."""
        return self.request_id_bytes.decode("latin-1")

    @property
    def request_id_bytes(self) -> bytes:
        if self._request_id is None:
            given = self.headers.get(b"x-request-id", b"")
            fit = 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.decode().isprintable()
            self._request_id = given if fit else uuid.uuid4().hex.encode()
        return self._request_id

    @property
    def deadline(self) -> float:
        """When the answer is due, in event loop time.

        Where Serve sees the caller's timeout too (`app.api.http.serve_middleware` is not in force), it is a little
        before that: Serve
        would answer in plain text.

        Raises:
            InvalidRequest: `x-request-timeout-seconds` is not a positive number.
        """
        header: bytes | None = self.scope.get(TIMEOUT_KEY)
        if header is not None:
            return self.received + positive_seconds(header)
        header = self.headers.get(TIMEOUT_HEADER)
        if header is None:
            return self.received + self._limits.timeout_s
        seconds = positive_seconds(header)
        return self.received + seconds - min(seconds * _DEADLINE_MARGIN, _MAX_DEADLINE_MARGIN_S)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await work that has a deadline only where the caller set one, such as a load.

        Raises:
            DeadlineExceeded: the caller's time is up; the work goes on where it is done.
        """
        if TIMEOUT_KEY not in self.scope and TIMEOUT_HEADER not in self.headers:
            return await work
        try:
            async with asyncio.timeout_at(self.deadline):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("it was not done before the deadline, and goes on") from None

    def session(self) -> str | None:
        """The caller's `x-session-id`, by which it stays with one variant of a model."""
        given = self.headers.get(SESSION_HEADER)
        return given.decode("latin-1") if given else None

    async def body(self) -> bytes:
        """The request's body, decompressed.

        Raises:
            TooLarge, UnsupportedMediaType, MalformedBody.
            CallerGone: the connection ended before the body did.
        """
        limit = self._limits.body_bytes
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        message: Message = await self._receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    break
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(parts)
        if message["type"] == "http.disconnect":
            raise CallerGone("the connection ended before the body did")
        self.has_body = True
        if len(body) > limit:
            raise _too_large(limit)
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding in (b"identity", b""):
            return body
        if len(body) < _THREAD_BYTES:
            return _decompress(body, encoding, limit)
        return await asyncio.to_thread(_decompress, body, encoding, limit)

    async def json(self) -> Any:
        """The request's body as JSON values. Raises as `body`."""
        return self.parse(await self.body())

    def parse(self, text: bytes) -> Any:
        """JSON values. Raises `MalformedBody`."""
        return parse_json(text, self._limits.json_depth)

    async def disconnected(self) -> None:
        """Return when the caller has gone; only where `has_body`, and while nothing has been sent."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, reply: Reply, send: Send) -> None:
        """Send the answer."""
        body = reply.body
        headers = [(b"content-type", reply.content_type), *reply.headers]
        if self._limits.echo_request_id:
            headers.append((b"x-request-id", self.request_id_bytes))
        if len(body) >= self._limits.gzip_bytes:
            encoding = _accepted(self.headers.get(b"accept-encoding", b""))
            if encoding:
                compress = gzip.compress if encoding == b"gzip" else zlib.compress
                in_thread = len(body) >= _THREAD_BYTES
                body = await asyncio.to_thread(compress, body, _LEVEL) if in_thread else compress(body, _LEVEL)
                headers.append((b"content-encoding", encoding))
            headers.append((b"vary", b"accept-encoding"))
        if reply.status != 304:  # there it would be the length of what is not sent
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


Handler = Callable[[Exchange], Awaitable[Reply]]
ErrorEncoder = Callable[[Exception, Exchange], Reply]


def dump(value: Any) -> bytes:
    """JSON bytes; NaN and infinities become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def parse_json(body: bytes, depth: int) -> Any:
    """Strict JSON.

    Raises:
        MalformedBody: not JSON, with where it goes wrong; or nested deeper than `depth`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = "the body is empty" if not body else f"the body is not valid JSON: {error}"
        raise MalformedBody(text) from None
    if may_be_deeper(body, depth) and is_deeper(value, depth):
        raise MalformedBody(f"the body is nested deeper than {depth} levels")
    return value


def _decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding not in (b"gzip", b"deflate"):
        raise UnsupportedMediaType(
            f"content-encoding '{encoding.decode('latin-1')[:40]}' is not read here: send gzip, deflate or none"
        )
    window = 16 + zlib.MAX_WBITS if encoding == b"gzip" else zlib.MAX_WBITS
    decompressor = zlib.decompressobj(window)
    try:
        plain = decompressor.decompress(body, limit + 1)  # never more than this: a small body may hold gigabytes
    except zlib.error as error:
        raise MalformedBody(f"the body is not valid {encoding.decode()}: {error}") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not decompressor.eof:
        raise MalformedBody(f"the {encoding.decode()} body is cut short")
    if decompressor.unused_data:
        raise MalformedBody(f"{len(decompressor.unused_data)} bytes follow the {encoding.decode()} body")
    return plain


def positive_seconds(given: bytes | str) -> float:
    """What `x-request-timeout-seconds` says. Raises `InvalidRequest`."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-request-timeout-seconds must be a positive number of seconds")
    return seconds


@lru_cache(maxsize=256)
def _accepted(header: bytes) -> bytes:
    """The encoding to answer in: gzip or deflate where the caller takes it, else none (RFC 9110, 12.5.3)."""
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


def _too_large(limit: int) -> ServingError:
    return TooLarge(f"the body is larger than the {limit} bytes that are allowed", {"limit_bytes": limit})
