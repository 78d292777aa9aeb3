"""Server-sent events, framed as MLflow's agent server frames them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from app.api.http.errors import known
from app.api.http.exchange import Reply, dump
from app.api.mlflow.bodies import InvocationsError
from app.serving.prediction.event_stream import EventStream

EVENT_STREAM = "text/event-stream"

_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""For caches and for nginx, and so for Kong: pass on each event at once."""


def event_stream_reply(stream: EventStream, request_id: str) -> Reply:
    """Return a response with an event for each one of the stream, then ``[DONE]``.

    An error in the stream becomes an event with ``error``: the status has been sent.
    """
    version = (b"x-model-version", stream.version.version.encode())
    return Reply(b"", 200, (version, *_HEADERS), EVENT_STREAM.encode(), parts=_frames(stream, request_id))


async def _frames(stream: EventStream, request_id: str) -> AsyncGenerator[bytes]:
    try:
        async for event in stream:
            yield _frame(event.encode())
    except Exception as error:
        described = InvocationsError.describe(known(error, request_id))
        fault = {"error": described["message"], "error_code": described["error_code"], "request_id": request_id}
        yield _frame(dump(fault))
    finally:
        await stream.aclose()
    yield _frame(b"[DONE]")


def _frame(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
