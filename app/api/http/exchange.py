"""One HTTP request and its reply: the request is read once and answered once.

Handlers take an `Exchange` and return a `Reply`. Starlette's `Request` and `Response` cost a tenth to a third of the
CPU of a whole request more; `docs/adr/0018-starlette-on-the-hot-path.md` has the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from app.api.http.body_budget import BodyBudget
from app.api.http.compression import accepted_encoding, body_too_large, compress, decompress
from app.api.http.header_values import positive_seconds, valid_request_id
from app.api.http.json_text import parse_json
from app.api.http.observation import ObservedRequest
from app.api.http.serve_middleware import DIRECT_KEY, HIDDEN_KEY
from app.errors import CallerGone, DeadlineExceeded, InvalidRequest
from app.serving.callers import ANYBODY

T = TypeVar("T")

SESSION_HEADER = b"x-session-id"
TIMEOUT_HEADER = b"x-request-timeout-seconds"
_DEADLINE_MARGIN = 0.1
_MAX_DEADLINE_MARGIN_S = 0.5
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one request: bytes of the body, nesting of its JSON, and seconds until the default deadline.

    `json_bytes` bounds JSON alone, which is parsed on the event loop while all other requests wait.

    The body has to arrive within `timeout_s` too, and `arriving_bytes` bounds the bodies of all requests together.
    Responses of `gzip_bytes` or more are compressed. `echo_request_id` adds `x-request-id` to every response; turn it
    off behind a server that adds the header itself, as Ray Serve does.
    """

    body_bytes: int
    json_depth: int
    timeout_s: float
    arriving_bytes: int = 2**29
    json_bytes: int = 2**24
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
    `awaits_body` says that a part of the body has yet to arrive, `late` that it did not in time, and `counted` how many
    of its bytes `budget` counts. `caller` is who sent the request; `audit` has the facts of a management call for the
    audit log. `observation` is set for a request that is observed.
    """

    __slots__ = (
        "_budget",
        "_echoes",
        "_limits",
        "_receive",
        "_request_id",
        "audit",
        "awaits_body",
        "body_read",
        "caller",
        "counted",
        "disconnected",
        "headers",
        "late",
        "observation",
        "received",
        "scope",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, limits: HttpLimits, budget: BodyBudget | None = None) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.received = asyncio.get_running_loop().time()
        self.body_read = scope["method"] in _WITHOUT_BODY
        self.disconnected = False
        self.started = False
        self.late = False
        self.counted = 0
        self._budget = budget
        self.awaits_body = False
        self.caller = ANYBODY
        self.audit: dict[str, Any] | None = None
        self.observation: ObservedRequest | None = None
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

    def note(self, **facts: Any) -> None:
        """Add facts to the audit entry of a management call."""
        if self.audit is not None:
            self.audit.update(facts)

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Await an operation, such as a load, that has a deadline only if the caller set one.

        Raises:
            DeadlineExceeded: the deadline has passed. The deployment that runs the operation finishes it.
            InvalidRequest: as `deadline`.
        """
        if TIMEOUT_HEADER not in self.headers:
            return await work
        try:
            deadline = self.deadline
        except InvalidRequest:
            work.close()
            raise
        try:
            async with asyncio.timeout_at(deadline):
                return await work
        except TimeoutError:
            message = "the operation did not finish before the deadline; it continues in the background"
            raise DeadlineExceeded(message) from None

    def session(self) -> str | None:
        """Return the caller's `x-session-id`, which selects one variant of a model for all its requests."""
        given = self.headers.get(SESSION_HEADER)
        return given.decode("latin-1") if given else None

    async def body(self) -> bytes:
        """Read the request's body and decompress it. After an error, the connection closes with the response.

        Raises:
            TooLarge, UnsupportedMediaType, MalformedBody.
            CallerGone: the connection closed before the whole body arrived.
            Overloaded: the bodies of all requests together are too large.
        """
        limit = self._limits.body_bytes
        declared = self.headers.get(b"content-length", b"")
        self.awaits_body = True
        if declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        body, more = await self._part()
        if more:
            body = await self._further_parts(body, limit)
        elif len(body) > limit:
            raise body_too_large(limit)
        self.awaits_body = False
        self.body_read = True
        encoding = self.headers.get(b"content-encoding")
        return await decompress(body, encoding, limit) if encoding else body

    async def _part(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("the connection closed before the whole body arrived")
        return message.get("body", b""), message.get("more_body", False)

    async def _further_parts(self, first: bytes, limit: int) -> bytes:
        parts, more = [first], True
        while True:
            if self._budget is not None:
                self._budget.take(len(parts[-1]), self.counted)
            self.counted += len(parts[-1])
            if self.counted > limit:
                raise body_too_large(limit)
            if not more:
                return b"".join(parts)
            part, more = await self._part()
            parts.append(part)

    def forget_body(self) -> None:
        """Stop counting the bytes of the body; the request is answered."""
        if self.counted and self._budget is not None:
            self._budget.give(self.counted)
            self.counted = 0

    async def json(self, *, optional: bool = False) -> Any:
        """Read the request's body as JSON; an empty one means ``{}`` if it is optional. Raises as `body`."""
        body = await self.body()
        return {} if optional and not body.strip() else self.parse(body)

    def parse(self, text: bytes, *, constants: bool = False) -> Any:
        """Parse JSON as `parse_json` does. Raises `MalformedBody` or `TooLarge`."""
        limits = self._limits
        return parse_json(text, limits.json_depth, limits.json_bytes, constants=constants)

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
        if self.awaits_body:  # the rest of the body is still on its way
            headers.append((b"connection", b"close"))
        if reply.status != 304:  # RFC 9110, 8.6: there it would be the length of the body that is not sent
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


Handler = Callable[[Exchange], Awaitable[Reply]]


def dump(value: Any) -> bytes:
    """Serialize to JSON; NaN and infinities become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
