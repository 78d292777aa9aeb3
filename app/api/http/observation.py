"""Observed predictions: a log line with the time of each phase, at the log level debug, and the spans of a trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.errors import ServingError
from app.serving.callers import ANYBODY
from app.serving.observation import NO_ATTRIBUTES, Span, TraceCarrier, Tracer, error_code, is_fault
from app.serving.references import ModelRef, ModelVersion

log = logging.getLogger(__name__)

_OF_MODEL = {"model": "name", "version": "version", "alias": "alias"}


class ObservedRoute(NamedTuple):
    """What an observed request calls: its span's name and attributes, and whose fault a result is.

    Attributes:
        path: template of the path, or the gRPC method.
        result: attribute of the HTTP status or of the gRPC code.
        faults: HTTP statuses or gRPC codes that are errors of the server.
    """

    name: str
    path: str
    attributes: Mapping[str, str]
    result: str
    faults: frozenset[int | str]


class ObservedPhase:
    """A phase of an `ObservedRequest`, with a span if the request is traced."""

    __slots__ = ("_request", "_span", "_started", "name")

    def __init__(self, request: ObservedRequest, name: str, span: Span | None) -> None:
        self.name = name
        self._span = span
        self._request: ObservedRequest | None = request
        self._started = time.perf_counter()

    @property
    def carrier(self) -> TraceCarrier | None:
        return self._span.carrier if self._span is not None else None

    def end(self, error: BaseException | None = None, facts: Mapping[str, int] = NO_ATTRIBUTES) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        request.took(self.name, time.perf_counter() - self._started)
        if self._span is not None:
            attributes = {f"ml_serve.{name}": value for name, value in facts.items()}
            if error is None:
                self._span.end(attributes)
            else:
                self._span.end(attributes, error_code(error), is_fault=is_fault(error))


class ObservedRequest:
    """An `Observation` of one request. Call `finish` once, when the response is sent.

    Attributes:
        caller: the name of who sent it, as far as that is known.
        trace_id: None if the request is not traced.
    """

    def __init__(self, route: ObservedRoute, started: float, span: Span | None, *, logged: bool) -> None:
        self.caller = ANYBODY.name
        self.trace_id = span.trace_id if span is not None else None
        self._route = route
        self._started = started
        self._span = span
        self._logged = logged
        self._entered: float | None = None
        self._left: float | None = None
        self._ref: ModelRef | None = None
        self._version: ModelVersion | None = None
        self._rows: int | None = None
        self._code: str | None = None
        self._seconds: dict[str, float] = {}

    def entered(self, ref: ModelRef) -> None:
        self._ref, self._entered = ref, time.perf_counter()

    def resolved(self, version: ModelVersion) -> None:
        self._version = version

    def answered(self, rows: int) -> None:
        self._rows, self._left = rows, time.perf_counter()

    def failed(self, error: Exception) -> None:
        """Take note of the error that the caller gets."""
        self._code = error.code if isinstance(error, ServingError) else ServingError.code
        self._left = time.perf_counter()

    def begin(self, name: str) -> ObservedPhase:
        return ObservedPhase(self, name, self._span.child(name) if self._span is not None else None)

    def took(self, phase: str, seconds: float) -> None:
        """Add the time of a phase that has ended."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def finish(self, result: int | str, request_id: str) -> None:
        """Write the line and end the span.

        Args:
            result: HTTP status or gRPC code.
        """
        facts = {**self._model(), "rows": self._rows}
        if self._logged:
            facts = {"route": self._route.path, **facts, "result": result, "code": self._code, **self._times()}
            facts |= {"request_id": request_id, "caller": self.caller, "trace_id": self.trace_id}
            known = {name: value for name, value in facts.items() if value is not None}
            text = " ".join(f"{name}={value}" for name, value in known.items())
            log.debug("prediction: %s", text, extra={"facts": known})
        if self._span is not None:
            attributes = {
                **self._route.attributes,
                self._route.result: result,
                "ml_serve.request_id": request_id,
                "ml_serve.rows": self._rows,
                **{f"ml_serve.model.{_OF_MODEL[name]}": value for name, value in self._model().items()},
            }
            self._span.end(attributes, self._code, is_fault=result in self._route.faults)

    def _model(self) -> dict[str, Any]:
        version, ref = self._version, self._ref
        return {
            "model": version.name if version is not None else ref.name if ref is not None else None,
            "version": version.version if version is not None else None,
            "alias": ref.alias if ref is not None else None,
        }

    def _times(self) -> dict[str, float]:
        """Return milliseconds: of the whole request, and of its phases in order."""
        now = time.perf_counter()
        read = (self._entered or self._left or now) - self._started
        write = now - self._left if self._left is not None else 0.0
        seconds = {"total": now - self._started, "read": read, **self._seconds, "write": write}
        return {f"{phase}_ms": round(1000 * value, 3) for phase, value in seconds.items()}


class Observer:
    """Observes the predictions of one gateway replica.

    Args:
        tracer: decides which requests are traced; None: none of them.
        logs: whether each request has a line in the log.
    """

    def __init__(self, tracer: Tracer | None = None, *, logs: bool = False) -> None:
        self._tracer = tracer
        self._logs = logs

    def begin(self, route: ObservedRoute, started: float, headers: Mapping[bytes, bytes]) -> ObservedRequest | None:
        """Observe a request, or return None.

        Args:
            started: when it arrived, by `time.perf_counter`.
            headers: those of the trace context; others may be there.
        """
        span = None
        if self._tracer is not None:
            parent, state = headers.get(b"traceparent"), headers.get(b"tracestate")
            span = self._tracer.serve(route.name, _text(parent), _text(state))
        return ObservedRequest(route, started, span, logged=self._logs) if self._logs or span is not None else None


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None


def make_observer(tracer: Tracer | None = None) -> Observer | None:
    """Return the observer of this process; None if nobody reads what it finds, so that requests cost no more."""
    logs = log.isEnabledFor(logging.DEBUG)
    return Observer(tracer, logs=logs) if logs or tracer is not None else None
