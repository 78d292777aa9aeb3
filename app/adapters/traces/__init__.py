"""Traces over OpenTelemetry: spans of sampled requests, sent to a collector over OTLP/HTTP."""

from __future__ import annotations

from app.serving.observation import Tracer
from app.settings import Settings


def make_tracer(settings: Settings, service: str, instance: str) -> Tracer | None:
    """Make what begins the spans of this process; None if there is no collector. Only then nothing is imported.

    Args:
        service: what the process is part of, such as ``ml-serve-gateway``.
        instance: id of its replica.
    """
    if settings.traces.endpoint is None:
        return None
    from app.adapters.traces.tracer import OtlpTracer  # noqa: PLC0415 - the exporter takes 50 ms and 10 MB to import

    return OtlpTracer(settings.traces, service, instance)
