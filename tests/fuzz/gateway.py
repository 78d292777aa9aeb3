"""The gateway that the targets call: the real application over fakes, and what each of its answers must be."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import orjson

from app.api.app import create_app
from app.api.http.access import EVERYBODY, Access
from app.serving.features import FeatureQuery
from app.serving.releases.traffic import Traffic, Variant
from app.serving.rows import Batch, Output
from tests.fakes import FakeFeatureStore, FakeModel, Fakes, columns, make_fakes, tensor
from tests.fuzz.parquet_child import read_parquet

T = TypeVar("T")

CPU_S = 2.0
"""Most CPU time of one call. The slowest valid one of this size takes some hundredths."""
MEMORY_BYTES = 400 * 2**20
"""Most growth of the process in one call. Arrays of text may take 256 MiB."""
ERROR_BYTES = 16 * 1024
"""Most bytes of an error, in a body or a header."""
STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 501, 504}
"""Documented statuses of a caller's error. 501 is an extension that is not supported, 504 the caller's deadline."""

Headers = Sequence[tuple[bytes, bytes]]


class Fault(AssertionError):
    """An answer that the gateway must not give."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class FuzzedFeatureStore(FakeFeatureStore):
    """A store whose entities may be of any type, as those of the real one are: it finds none for the others."""

    async def read(self, query: FeatureQuery, entities: Any, traces: Any = ()) -> Any:
        known = [{name: value for name, value in one.items() if isinstance(value, str | int)} for one in entities]
        return await super().read(query, [one if "id" in one else {"id": ""} for one in known])


def mirror(batch: Batch) -> Output:
    """Answer what was asked."""
    kind = batch.layout.kind
    if kind == "list":
        return tensor(batch.arrays[0])
    return Output(kind, tuple(map(str, batch.layout.names)), batch.arrays, batch.count)


def zeros(batch: Batch) -> Output:
    """Answer a number for each row."""
    return tensor(np.zeros(batch.count))


def _tensor(dtype: str, *shape: int, **name: str) -> dict[str, Any]:
    return {"type": "tensor", **name, "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


SCALARS = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
_OBJECT = {
    "type": "object",
    "properties": {
        "a": {"type": "long", "required": True},
        "b": {"type": "array", "items": {"type": "string"}, "required": False},
    },
}
_PARAMS: list[dict[str, Any]] = [
    {"name": "p", "type": "double", "default": 1.0, "shape": None},
    {"name": "when", "type": "datetime", "default": "2024-01-01", "shape": None},
    {"name": "words", "type": "string", "default": [], "shape": [-1]},
    {"name": "o", **_OBJECT, "default": None, "shape": None},
]
MODELS = {
    "m": FakeModel(
        lambda batch: tensor(batch.arrays[0]),
        [*columns("x"), *columns("n", type="long"), *columns("s", type="string")],
        [{"type": "double", "name": "y"}],
    ),
    "m/versions/2": FakeModel(zeros, columns("x")),
    "typed": FakeModel(zeros, [{"name": name, "type": name, "required": False} for name in SCALARS], params=_PARAMS),
    "needed": FakeModel(zeros, [{"name": name, "type": name, "required": True} for name in SCALARS]),
    "bare": FakeModel(zeros, [{"type": "double", "required": True}, {"type": "string", "required": True}]),
    "nested": FakeModel(
        zeros,
        [
            {"name": "x", "type": "array", "items": {"type": "array", "items": {"type": "double"}}, "required": False},
            {"name": "n", "type": "map", "values": {"type": "long"}, "required": False},
            {"name": "s", **_OBJECT, "required": False},
            {"name": "any", "type": "any", "required": False},
            {"name": "times", "type": "array", "items": {"type": "datetime"}, "required": False},
        ],
    ),
    "objects": FakeModel(zeros, [{**_OBJECT, "required": True}]),
    "hinted": FakeModel(zeros, [{**_OBJECT, "required": True}], hinted=True),
    "tensor": FakeModel(zeros, [_tensor("float32", -1, 2)], [_tensor("float64", -1)]),
    "fixed": FakeModel(zeros, [_tensor("int64", 2, 2)]),
    "tensors": FakeModel(
        zeros, [_tensor("float32", -1, 2, name="x"), _tensor("int8", -1, name="n"), _tensor("str", -1, name="s")]
    ),
    "any": FakeModel(mirror),
    "chat": FakeModel(
        zeros, invoke=lambda body: body, stream=lambda body: (event for event in ('{"a":1}', "{}")), takes_json=True
    ),
}
NAMES = tuple(MODELS)


class Gateway:
    """A gateway replica in this process."""

    def __init__(self, access: Access = EVERYBODY) -> None:
        views = {"daily": {7: {"x": 1.0, "n": 2, "s": "a"}, "": {}}}
        self.fakes: Fakes = make_fakes(MODELS, aliases={"m": {"new": "1"}}, features=FuzzedFeatureStore(views))
        halves = (Variant("new", "1", 50.0), Variant("old", "2", 50.0))
        self.fakes.directory.traffics["m"] = Traffic(halves)
        self.app = create_app(
            self.fakes.service,
            self.fakes.manager,
            self.fakes.http_limits,
            read_parquet=read_parquet,
            access=access,
        )
        self.unhandled: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._unhandled)

    def close(self) -> None:
        """End what the gateway has started."""
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def _unhandled(self, _: object, context: dict[str, Any]) -> None:
        self.unhandled.append(str(context))

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something within the bounds of one call."""

        async def awaited() -> T:
            return await work()

        with bounded(), _logged() as lines:
            found = self.loop.run_until_complete(awaited())
        self.fakes.runner.batches.clear()
        if self.unhandled or lines:
            raise Fault(f"the gateway logged an error: {lines} {self.unhandled}")
        return found

    def ask(self, method: str, path: str, body: bytes = b"", headers: Headers = (), query: bytes = b"") -> Answer:
        """Send a request, whose body arrives in parts as a server passes it on."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogatepass"),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", b"127.0.0.1:8000"), *headers],
            "client": ("127.0.0.1", 1234),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        parts = [body[at : at + 2**14] for at in range(0, len(body), 2**14)] or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.Event().wait()
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)

        self.run(lambda: self.app(scope, receive, send))
        start, *rest = sent
        return Answer(start["status"], dict(start["headers"]), b"".join(part["body"] for part in rest))


@cache
def open_gateway() -> Gateway:
    """The gateway that everybody may call."""
    return Gateway()


@contextmanager
def bounded() -> Iterator[None]:
    """Raise `Fault` if the work takes too much CPU time or memory."""
    before, started = _peak_bytes(), time.process_time()
    yield
    spent, grown = time.process_time() - started, _peak_bytes() - before
    if grown > MEMORY_BYTES:
        raise Fault(f"one call took {grown >> 20} MiB of memory")
    if spent > CPU_S:
        raise Fault(f"one call took {spent:.1f} s of CPU time")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect what the gateway logs as an error."""
    handler, logger = _Lines(), logging.getLogger("app")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def check(answer: Answer, path: str) -> None:
    """Raise `Fault` unless the answer is a success, or a documented error in the form of the path's dialect."""
    kind = answer.headers.get(b"content-type", b"")
    if answer.status == 200:
        if kind == b"application/json":
            length = int(answer.headers.get(b"inference-header-content-length", len(answer.body)))
            json.loads(answer.body[:length], parse_constant=_refuse)
        return
    if answer.status not in STATUSES:
        raise Fault(f"status {answer.status}: {answer.body[:2000]!r}")
    for name, value in answer.headers.items():
        if len(value) > ERROR_BYTES or b"\n" in value or b"\r" in value:
            raise Fault(f"the header {name!r} is {value[:200]!r}")
    if len(answer.body) > ERROR_BYTES:
        raise Fault(f"an error of {len(answer.body)} bytes: {answer.body[:500]!r}")
    fault = orjson.loads(answer.body)
    if fault.pop("request_id") != answer.headers[b"x-request-id"].decode():
        raise Fault("another request id in the body than in the header")
    if path.startswith(("/v1", "/v2")):
        complete = fault.keys() == {"error", "code", "details"} and isinstance(fault["error"], str)
    elif path.startswith(("/invocations", "/models/", "/ping", "/version")):
        complete = fault.keys() == {"error_code", "message", "details"}
    else:
        complete = fault["status"] == "error" and {"code", "message"} <= fault["error"].keys()
    if not complete:
        raise Fault(f"an error in another form: {answer.body[:500]!r}")


def _refuse(constant: str) -> None:
    raise Fault(f"{constant} in JSON")
