"""Admission: how much may be in progress in one gateway replica. What is over a bound is refused before it waits."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import Overloaded
from app.serving.references import ModelVersion


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on what is in progress: requests in all and per model version, rows, and bytes of input."""

    requests: int
    requests_per_model: int
    rows: int
    nbytes: int
    retry_after_s: int = 1


class Admission:
    """Counts what is in progress. Not thread-safe: it lives on the event loop.

    Pairs of calls and not context managers: those cost as much as all the rest that is done here for a request.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._per_model: dict[ModelVersion, int] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0

    def enter(self) -> None:
        """Count a request from its first step, which may be to wait for a model that is being loaded; then `leave`.

        Raises:
            Overloaded: too many are in progress.
        """
        if self.requests >= self._limits.requests:
            raise self._overloaded(f"{self.requests} requests are in progress")
        self.requests += 1

    def leave(self) -> None:
        """The request that entered is over."""
        self.requests -= 1

    def admit(self, version: ModelVersion, rows: int, nbytes: int) -> None:
        """Count a request's rows while they are in progress; then `release` the same.

        A request that is larger than a bound on its own is let in when nothing else is in progress: bounds on single
        requests are checked elsewhere, and it could never be answered otherwise.

        Raises:
            Overloaded: it does not fit now.
        """
        limits = self._limits
        of_model = self._per_model.get(version, 0)
        if of_model >= limits.requests_per_model:
            raise self._overloaded(f"{of_model} requests for {version} are in progress")
        if self.rows and self.rows + rows > limits.rows:
            raise self._overloaded(f"{self.rows} rows are in progress")
        if self.nbytes and self.nbytes + nbytes > limits.nbytes:
            raise self._overloaded(f"{self.nbytes} bytes of input are in progress")
        self._per_model[version] = of_model + 1
        self.rows += rows
        self.nbytes += nbytes

    def release(self, version: ModelVersion, rows: int, nbytes: int) -> None:
        """The rows that were admitted are over."""
        self.rows -= rows
        self.nbytes -= nbytes
        of_model = self._per_model[version] - 1
        if of_model:
            self._per_model[version] = of_model
        else:
            del self._per_model[version]

    def _overloaded(self, why: str) -> Overloaded:
        seconds = self._limits.retry_after_s
        return Overloaded(f"too much is queued: {why}; try again in {seconds} s", {"retry_after_s": seconds})
