"""Observed requests and their traces, as the domain and the deployments see them.

`app.api.http.observation` and `app.adapters.traces` implement the Protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Protocol

from app.errors import ServingError
from app.serving.references import ModelRef, ModelVersion

TraceCarrier = Mapping[str, str]
"""What names a span to another process: ``traceparent``, and ``tracestate`` if there is one (W3C Trace Context)."""

Attributes = Mapping[str, str | int | None]
NO_ATTRIBUTES: Mapping[str, int] = MappingProxyType({})


class Phase(Protocol):
    """A phase of an observed request, such as its wait for a batch."""

    @property
    def carrier(self) -> TraceCarrier | None:
        """The parent of the spans of other processes; None if the request is not traced."""

    def end(self, error: BaseException | None = None, facts: Mapping[str, int] = NO_ATTRIBUTES) -> None:
        """End the phase. A second call changes nothing.

        Args:
            error: what the phase failed with.
            facts: numbers to keep, such as rows.
        """


class Observation(Protocol):
    """An observed request: it is told where the request spends its time. No method raises."""

    def entered(self, ref: ModelRef) -> None:
        """Take note that the request was read."""

    def resolved(self, version: ModelVersion) -> None:
        """Take note of the version that answers."""

    def answered(self, rows: int) -> None:
        """Take note that the prediction is there; the response is not written yet."""

    def begin(self, name: str) -> Phase:
        """Begin a phase; several may run at the same time."""


class Span(Protocol):
    """A span of a sampled trace. No method raises or blocks."""

    @property
    def trace_id(self) -> str: ...

    @property
    def carrier(self) -> TraceCarrier: ...

    def child(self, name: str) -> Span:
        """Begin a span below this one."""

    def end(self, attributes: Attributes, error: str | None = None, *, is_fault: bool = True) -> None:
        """End the span.

        Args:
            attributes: those with the value None are left out.
            error: code of an error.
            is_fault: whether the error is one of this process, not of its caller.
        """


class Tracer(Protocol):
    """Begins the spans of this process."""

    def serve(self, name: str, traceparent: str | None, tracestate: str | None) -> Span | None:
        """Begin the span of a request, below the caller's span if it names one. None: the trace is not sampled."""

    def resume(self, name: str, parent: TraceCarrier) -> Span:
        """Begin a span below one of another process."""

    async def close(self) -> None:
        """Send the spans that have ended, if that takes no more than a moment, and end."""


def error_code(error: BaseException) -> str:
    """Name an error without its message, which may contain values of a request."""
    return error.code if isinstance(error, ServingError) else type(error).__name__


def is_fault(error: BaseException) -> bool:
    """Return False for the end of work that nobody waits for any more."""
    return isinstance(error, Exception)


def batch_attributes(version: ModelVersion, rows: int) -> Attributes:
    """Describe a batch for a model version."""
    return {"ml_serve.model.name": version.name, "ml_serve.model.version": version.version, "ml_serve.rows": rows}


@contextmanager
def resumed(tracer: Tracer, name: str, parents: Sequence[TraceCarrier], attributes: Attributes) -> Iterator[None]:
    """Make what happens inside a span below each of `parents`, which belong to different traces."""
    spans = [tracer.resume(name, parent) for parent in parents]
    try:
        yield
    except BaseException as error:
        for span in spans:
            span.end(attributes, error_code(error), is_fault=is_fault(error))
        raise
    for span in spans:
        span.end(attributes)
