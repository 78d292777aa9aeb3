"""A `Tracer` over the OpenTelemetry SDK.

Spans are begun with an explicit parent and never become the current span, so no context leaks into batches, into the
threads of models or into MLflow's own traces.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.adapters.traces.export import BoundedProcessor, CollectorExporter
from app.serving.observation import Attributes, TraceCarrier
from app.settings import TraceSettings
from app.settings.stores import without_password

_CLOSE_S = 2.0
_MAX_TEXT = 256
_CALLS = frozenset({"call", "features"})
"""Names of the spans that another process continues."""
_NOISY = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal", "opentelemetry.trace.propagation")
"""Loggers with lines for each failed try and for each wrong header of a caller."""

_NOT_SAMPLED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][02468ace]")
"""What callers send with most requests. The propagator takes 15 times as long to find that out."""
_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """The spans of one process.

    Args:
        service: value of the resource attribute ``service.name``.
        instance: value of ``service.instance.id``.
    """

    def __init__(self, settings: TraceSettings, service: str, instance: str) -> None:
        assert settings.endpoint is not None
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._ratio = settings.sample_ratio
        resource = Resource.create(
            {
                "service.namespace": "ml-serve",
                "service.name": service,
                "service.instance.id": instance,
                "service.version": __version__,
            }
        )
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),  # what is not sampled gets no span at all, see `serve`
            resource=resource,
            shutdown_on_exit=False,  # it would wait half a minute for a dead collector
            span_limits=SpanLimits(max_span_attribute_length=_MAX_TEXT),
        )
        shown = without_password(settings.endpoint)
        self._provider.add_span_processor(BoundedProcessor(CollectorExporter(settings.endpoint, shown)))
        self._tracer = self._provider.get_tracer("ml-serve", __version__)

    def serve(self, name: str, traceparent: str | None, tracestate: str | None) -> OtlpSpan | None:
        if traceparent is None:
            return self._begin(name, Context(), SpanKind.SERVER) if self._draws() else None
        if _NOT_SAMPLED.fullmatch(traceparent) is not None:
            return None
        given = {"traceparent": traceparent, **({"tracestate": tracestate} if tracestate else {})}
        context = _PROPAGATOR.extract(given, Context())
        parent = trace.get_current_span(context).get_span_context()
        sampled = parent.trace_flags.sampled if parent.is_valid else self._draws()
        return self._begin(name, context, SpanKind.SERVER) if sampled else None

    def resume(self, name: str, parent: TraceCarrier) -> OtlpSpan:
        return self._begin(name, _PROPAGATOR.extract(parent, Context()), SpanKind.SERVER)

    async def close(self) -> None:
        """Send the spans that have ended. Takes at most two seconds; what is not sent then is lost."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _CLOSE_S)

    def _draws(self) -> bool:
        """Decide whether a trace that begins here is sampled."""
        return random.random() < self._ratio  # noqa: S311 - no secret

    def _begin(self, name: str, context: Context, kind: SpanKind) -> OtlpSpan:
        return OtlpSpan(self._tracer, self._tracer.start_span(name, context, kind))


class OtlpSpan:
    """A `Span` of the SDK."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def carrier(self) -> TraceCarrier:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        return carrier

    def child(self, name: str) -> OtlpSpan:
        kind = SpanKind.CLIENT if name in _CALLS else SpanKind.INTERNAL
        return OtlpSpan(self._tracer, self._tracer.start_span(name, self._context, kind))

    def end(self, attributes: Attributes, error: str | None = None, *, is_fault: bool = True) -> None:
        known: dict[str, Any] = {name: value for name, value in attributes.items() if value is not None}
        if error is not None:
            known["error.type"] = error
            if is_fault:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(known)
        self._span.end()
