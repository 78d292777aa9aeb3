"""Observed predictions: a log line with the time of each phase, at the log level debug."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from app.errors import ServingError
from app.serving.callers import ANYBODY
from app.serving.references import ModelRef, ModelVersion

log = logging.getLogger(__name__)

_NONE: Mapping[str, int] = MappingProxyType({})


class ObservedPhase:
    """A phase of an `ObservedRequest`."""

    __slots__ = ("_request", "_started", "name")

    def __init__(self, request: ObservedRequest, name: str) -> None:
        self.name = name
        self._request: ObservedRequest | None = request
        self._started = time.perf_counter()

    def end(self, error: BaseException | None = None, facts: Mapping[str, int] = _NONE) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.took(self.name, time.perf_counter() - self._started)


class ObservedRequest:
    """An `Observation` of one request. Call `finish` once, when the response is sent.

    Attributes:
        caller: the name of who sent it, as far as that is known.
    """

    __slots__ = ("_code", "_entered", "_left", "_ref", "_route", "_rows", "_seconds", "_started", "_version", "caller")

    def __init__(self, route: str, started: float) -> None:
        self.caller = ANYBODY.name
        self._route = route
        self._started = started
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
        return ObservedPhase(self, name)

    def took(self, phase: str, seconds: float) -> None:
        """Add the time of a phase that has ended."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def finish(self, result: int | str, request_id: str) -> None:
        """Write the line.

        Args:
            result: HTTP status or gRPC code.
        """
        facts = {**self._facts(), "result": result, "code": self._code, **self._times()}
        known = {name: value for name, value in facts.items() if value is not None}
        known |= {"request_id": request_id, "caller": self.caller}
        text = " ".join(f"{name}={value}" for name, value in known.items())
        log.debug("prediction: %s", text, extra={"facts": known})

    def _facts(self) -> dict[str, Any]:
        version, ref = self._version, self._ref
        return {
            "route": self._route,
            "model": version.name if version is not None else ref.name if ref is not None else None,
            "version": version.version if version is not None else None,
            "alias": ref.alias if ref is not None else None,
            "rows": self._rows,
        }

    def _times(self) -> dict[str, float]:
        """Return milliseconds: of the whole request, and of its phases in order."""
        now = time.perf_counter()
        read = (self._entered or self._left or now) - self._started
        write = now - self._left if self._left is not None else 0.0
        seconds = {"total": now - self._started, "read": read, **self._seconds, "write": write}
        return {f"{phase}_ms": round(1000 * value, 3) for phase, value in seconds.items()}


class Observer:
    """Observes the predictions of one gateway replica."""

    def begin(self, route: str, started: float) -> ObservedRequest:
        """Observe a request.

        Args:
            route: path template or gRPC method.
            started: when it arrived, by `time.perf_counter`.
        """
        return ObservedRequest(route, started)


def make_observer() -> Observer | None:
    """Return the observer of this process; None if nobody reads what it finds, so that requests cost no more."""
    return Observer() if log.isEnabledFor(logging.DEBUG) else None
