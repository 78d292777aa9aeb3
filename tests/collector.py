"""A collector of traces: an HTTP server that takes what an OTLP exporter sends."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Sent:
    """A span that arrived. `service` is the process that sent it; `attributes` are its own."""

    name: str
    trace: str
    id: str
    parent: str
    state: str
    service: str
    kind: int
    failed: bool
    attributes: dict[str, Any] = field(compare=False)
    started: int = 0
    ended: int = 0


class Collector:
    """What has arrived at a collector. It answers with `status`, after `delay_s` seconds."""

    def __init__(self) -> None:
        self.spans: list[Sent] = []
        self.requests = 0
        self.status = 200
        self.delay_s = 0.0
        self.url = ""

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            of = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
            for span in [span for scope in resource.scope_spans for span in scope.spans]:
                self.spans.append(
                    Sent(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.trace_state,
                        of["service.name"],
                        span.kind,
                        span.status.code == span.status.STATUS_CODE_ERROR,
                        {pair.key: _value(pair.value) for pair in span.attributes},
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                    )
                )

    def wait(self, holds: Callable[[], bool], within_s: float = 20) -> None:
        """Return when the condition holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.01)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector at a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            time.sleep(collector.delay_s)
            status = collector.status
            collector.requests += 1  # from here on, a test may set another status
            if status == 200 and self.path == "/v1/traces":
                collector.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(status if self.path == "/v1/traces" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
