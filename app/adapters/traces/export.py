"""Sends spans to a collector in the background: a bounded queue, a warning per outage, and a count of what is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import REGISTRY, CollectorRegistry, Counter

log = logging.getLogger(__name__)

_EXPORT_S = 5.0
"""Seconds to send one batch, retries included. The exporter's thread waits, no request does."""
_QUEUED = 2048
_BATCH = 512
_DELAY_S = 2.0


@cache
def dropped_spans(registry: CollectorRegistry = REGISTRY) -> Counter:
    """Return the counter of this process."""
    return Counter("ml_serve_dropped_spans", "Spans that were not sent to the collector.", registry=registry)


class CollectorExporter(SpanExporter):
    """Sends spans over OTLP/HTTP. It warns once when the collector stops answering, and says when it answers again.

    Attributes:
        done: spans that were sent or lost.
    """

    def __init__(self, endpoint: str, shown: str) -> None:
        self._otlp = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        self._shown = shown
        self._is_failing = False
        self._lost = 0
        self.done = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._otlp.export(spans)
        finally:
            self.done += len(spans)
            self._note(len(spans), answered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._otlp.shutdown()  # type: ignore[no-untyped-call]

    def _note(self, count: int, *, answered: bool) -> None:
        if answered:
            if self._is_failing:
                log.info("the trace collector answers again: endpoint=%s lost_spans=%d", self._shown, self._lost)
            self._is_failing, self._lost = False, 0
            return
        dropped_spans().inc(count)
        self._lost += count
        if not self._is_failing:
            self._is_failing = True
            log.warning("traces not sent, dropping spans until the collector answers: endpoint=%s", self._shown)


class BoundedProcessor(BatchSpanProcessor):
    """Queues ended spans for an exporter. While the queue is full it drops and counts new ones.

    The SDK's own queue would drop the oldest, and log that, without a count.
    """

    def __init__(self, exporter: CollectorExporter) -> None:
        super().__init__(exporter, _QUEUED, _DELAY_S * 1000, _BATCH)
        self._exporter = exporter
        self._queued = 0

    def on_end(self, span: ReadableSpan) -> None:
        if self._queued - self._exporter.done >= _QUEUED:
            dropped_spans().inc()
            return
        self._queued += 1
        super().on_end(span)
