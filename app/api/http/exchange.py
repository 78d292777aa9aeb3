"""One HTTP request and its reply: the request is read once and answered once.

Handlers take an `Exchange` and return a `Reply`. Starlette's `Request` and `Response` cost a tenth to a third of the
CPU of a whole request more; `docs/adr/0018-starlette-on-the-hot-path.md` has the figures.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from app.api.http.compression import accepted_encoding, body_too_large, compress, decompress
from app.api.http.serve_middleware import DIRECT_KEY, HIDDEN_KEY, new_request_id
from app.errors import CallerGone, DeadlineExceeded, InvalidRequest, MalformedBody
from app.serving.json_depth import is_deeper, may_be_deeper

T = TypeVar("T")

SESSION_HEADER = b"x-session-id"
TIMEOUT_HEADER = b"x-request-timeout-seconds"
_MAX_REQUEST_ID = 128
_DEADLINE_MARGIN = 0.1
_MAX_DEADLINE_MARGIN_S = 0.5
_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
# Never tries a text twice (possessive), nor begins within one that does not end: linear for every input.
_TEXT_OR_CONSTANT = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|-?\b(?:NaN|Infinity)\b')
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one request: bytes of the body, nesting of its JSON, and seconds until the default deadline.

    Responses of `gzip_bytes` or more are compressed. `echo_request_id` adds `x-request-id` to every response; turn it
    off behind a server that adds the header itself, as Ray Serve does.
    """

    body_bytes: int
    json_depth: int
    timeout_s: float
    gzip_bytes: int = 16 * 1024
    echo_request_id: bool = True


class Reply(NamedTuple):
    """A response: its body and the headers beside those that every response has.

    `parts` yields a body that is sent part by part, at least one; `body` is empty then.
    """

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"
    parts: AsyncGenerator[bytes] | None = None


class Exchange:
    """A request in progress.

    `received` is event loop time in seconds; `headers` has the last value of each name; `body_read` and `disconnected`
    say that the whole body has arrived and that the caller has gone, `started` that a part of the response was sent.
    """

    __slots__ = (
        "_echoes",
        "_limits",
        "_receive",
        "_request_id",
        "body_read",
        "disconnected",
        "headers",
        "received",
        "scope",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, limits: HttpLimits) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.received = asyncio.get_running_loop().time()
        self.body_read = scope["method"] in _WITHOUT_BODY
        self.disconnected = False
        self.started = False
        self._receive = receive
        self._limits = limits
        self._echoes = limits.echo_request_id or DIRECT_KEY in scope
        self._request_id: str | None = None

    @property
    def path_params(self) -> dict[str, str]:
        """Values of the parameters in the route's path."""
        params: dict[str, str] = self.scope["path_params"]
        return params

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`; a new id if that is missing, too long or not printable ASCII."""
        if self._request_id is None:
            self._request_id = valid_request_id(self.headers.get(b"x-request-id", b"").decode("latin-1"))
        return self._request_id

    @property
    def deadline(self) -> float:
        """Event loop time by which the response must be sent.

        Without `app.api.http.serve_middleware` Serve enforces the caller's timeout too, and answers in plain text. The
        deadline is then a little earlier, so that our 504 comes first.

        Raises:
            InvalidRequest: `x-request-timeout-seconds` is not a positive number.
        """
        header = self.headers.get(TIMEOUT_HEADER)
        if header is None:
            return self.received + self._limits.timeout_s
        seconds = positive_seconds(header)
        if DIRECT_KEY in self.scope or HIDDEN_KEY in self.scope:
            return self.received + seconds
        return self.received + seconds - min(seconds * _DEADLINE_MARGIN, _MAX_DEADLINE_MARGIN_S)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await an operation, such as a load, that has a deadline only if the caller set one.

        Raises:
            DeadlineExceeded: the deadline has passed. The deployment that runs the operation finishes it.
        """
        if TIMEOUT_HEADER not in self.headers:
            return await work
        try:
            async with asyncio.timeout_at(self.deadline):
                return await work
        except TimeoutError:
            message = "the operation did not finish before the deadline; it continues in the background"
            raise DeadlineExceeded(message) from None

    def session(self) -> str | None:
        """Return the caller's `x-session-id`, which selects one variant of a model for all its requests."""
        given = self.headers.get(SESSION_HEADER)
        return given.decode("latin-1") if given else None

    async def body(self) -> bytes:
        """Read the request's body and decompress it.

        Raises:
            TooLarge, UnsupportedMediaType, MalformedBody.
            CallerGone: the connection closed before the whole body arrived.
        """
        limit = self._limits.body_bytes
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone("the connection closed before the whole body arrived")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise body_too_large(limit)
            more = message.get("more_body", False)
        self.body_read = True
        body = b"".join(chunks)
        encoding = self.headers.get(b"content-encoding")
        return await decompress(body, encoding, limit) if encoding else body

    async def json(self, *, optional: bool = False) -> Any:
        """Read the request's body as JSON; an empty one means ``{}`` if it is optional. Raises as `body`."""
        body = await self.body()
        return {} if optional and not body.strip() else self.parse(body)

    def parse(self, text: bytes, *, constants: bool = False) -> Any:
        """Parse JSON as `parse_json` does. Raises `MalformedBody`."""
        return parse_json(text, self._limits.json_depth, constants=constants)

    async def wait_disconnected(self) -> None:
        """Wait until the caller disconnects; only after `body_read`, and before the whole response is sent."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_parts(self, reply: Reply, parts: AsyncGenerator[bytes], send: Send) -> None:
        """Send a response part by part, each as soon as it is there, and close `parts`."""
        async with aclosing(parts):
            async for part in parts:
                if not self.started:
                    self.started = True
                    headers = [(b"content-type", reply.content_type), *reply.headers]
                    if self._echoes:
                        headers.append((b"x-request-id", self.request_id.encode()))
                    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def reply(self, reply: Reply, send: Send) -> None:
        """Send the response, compressed if it is large and the caller accepts that."""
        body = reply.body
        headers = [(b"content-type", reply.content_type), *reply.headers]
        if self._echoes:
            headers.append((b"x-request-id", self.request_id.encode()))
        if len(body) >= self._limits.gzip_bytes:
            encoding = accepted_encoding(self.headers.get(b"accept-encoding", b""))
            if encoding:
                body = await compress(body, encoding)
                headers.append((b"content-encoding", encoding))
            headers.append((b"vary", b"accept-encoding"))
        if reply.status != 304:  # RFC 9110, 8.6: there it would be the length of the body that is not sent
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


Handler = Callable[[Exchange], Awaitable[Reply]]


def dump(value: Any) -> bytes:
    """Serialize to JSON; NaN and infinities become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def versioned_reply(body: Any, version: str) -> Reply:
    """Serialize a body of Python's own types to JSON, and name the model version in a header."""
    try:
        content = dump(body)
    except TypeError:  # a whole number of more than 64 bits, half a character, or deeper than 254 levels
        content = json.dumps(body, separators=(",", ":")).encode()
    return Reply(content, headers=((b"x-model-version", version.encode()),))


def parse_json(body: bytes, depth: int, *, constants: bool = False) -> Any:
    """Parse strict JSON; a byte order mark may come first, as Windows programs write it.

    Args:
        constants: accept ``NaN``, ``Infinity`` and ``-Infinity``, which Python's json module writes although JSON has
            no such numbers. NaN is null.

    Raises:
        MalformedBody: not JSON, or nested deeper than `depth` levels.
    """
    if body.startswith(BOM_UTF8):
        body = body.removeprefix(BOM_UTF8)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not constants or not (b"NaN" in body or b"Infinity" in body):
            text = "the body is empty; send a JSON object" if not body else f"the body is not valid JSON: {error}"
            raise MalformedBody(text) from None
        value = _parse_constants(body)
    if may_be_deeper(body, depth) and is_deeper(value, depth):
        raise MalformedBody(f"the body is nested deeper than {depth} levels, the limit")
    return value


def _parse_constants(body: bytes) -> Any:
    """Parse JSON with constants, and be as strict as without: Python's parser alone accepts half a character."""
    try:
        orjson.loads(_TEXT_OR_CONSTANT.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", body))
        return json.loads(body, parse_constant=_CONSTANTS.__getitem__)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None


def valid_request_id(given: str) -> str:
    """Return the caller's request id; a new one if it is missing, too long or not printable ASCII."""
    valid = 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if valid else new_request_id()


def positive_seconds(given: bytes | str) -> float:
    """Parse `x-request-timeout-seconds`. Raises `InvalidRequest`."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-request-timeout-seconds must be a positive number of seconds, such as 2.5")
    return seconds
