"""Admission control of one gateway replica: a request over a limit is refused before it waits."""

from __future__ import annotations

from app.errors import Overloaded
from app.serving.references import ModelVersion
from app.settings import Limits

_RETRY_AFTER_S = 1


class Admission:
    """Counts the requests in progress. Use it on one event loop.

    It has pairs of calls instead of context managers, which would double its cost per request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._per_model: dict[ModelVersion, int] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0

    def enter(self) -> None:
        """Count a request from its first step on, a wait for a loading model included. Call `leave` afterwards.

        Raises:
            Overloaded: too many requests are in progress.
        """
        if self.requests >= self._limits.queued_requests:
            raise _overloaded(f"{self.requests} requests are in progress")
        self.requests += 1

    def leave(self) -> None:
        """Stop counting a request."""
        self.requests -= 1

    def admit(self, version: ModelVersion, rows: int, nbytes: int) -> None:
        """Count the rows of a request in progress. Call `release` with the same arguments afterwards.

        A request that exceeds a limit on its own is admitted when nothing else is in progress, or it could never be
        answered. Limits on single requests are checked elsewhere.

        Raises:
            Overloaded: the request does not fit now.
        """
        limits = self._limits
        of_model = self._per_model.get(version, 0)
        if of_model >= limits.queued_requests_per_model:
            raise _overloaded(f"{of_model} requests for {version} are in progress")
        if self.rows and self.rows + rows > limits.queued_rows:
            raise _overloaded(f"{self.rows} rows are in progress")
        if self.nbytes and self.nbytes + nbytes > limits.queued_bytes:
            raise _overloaded(f"{self.nbytes} bytes of input are in progress")
        self._per_model[version] = of_model + 1
        self.rows += rows
        self.nbytes += nbytes

    def release(self, version: ModelVersion, rows: int, nbytes: int) -> None:
        """Stop counting the rows of a request."""
        self.rows -= rows
        self.nbytes -= nbytes
        of_model = self._per_model[version] - 1
        if of_model:
            self._per_model[version] = of_model
        else:
            del self._per_model[version]


def _overloaded(why: str) -> Overloaded:
    message = f"too much is queued: {why}; try again in {_RETRY_AFTER_S} s"
    return Overloaded(message, {"retry_after_s": _RETRY_AFTER_S})
