"""Admission control of one gateway replica: a request over a limit is refused before it waits.

One model version, or one caller, may use as much as it leaves free: alone half of a limit, and a third each where two
want all. So there is always room for others, and only those who use much are refused. (Dynamic thresholds of Choudhury
and Hahne, who share the memory of a switch among its ports in this way.)
"""

from __future__ import annotations

from app.errors import overloaded
from app.serving.references import ModelVersion
from app.settings import Limits


class _Use:
    """What the requests in progress of one model version, or of one caller, take."""

    __slots__ = ("nbytes", "requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.nbytes = 0


class Admission:
    """Counts the requests in progress. Use it on one event loop.

    It has pairs of calls instead of context managers, which would double its cost per request. `caller` names who sent
    a request; None where callers are not known.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._models: dict[ModelVersion, _Use] = {}
        self._callers: dict[str, _Use] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0

    def enter(self, caller: str | None = None) -> None:
        """Count a request from its first step on, a wait for a loading model included. Call `leave` afterwards.

        Raises:
            Overloaded: too many requests are in progress.
        """
        free = self._limits.queued_requests - self.requests
        if free <= 0:
            raise overloaded(f"{self.requests} requests are in progress")
        if caller is not None:
            use = self._callers.get(caller)
            if use is None:
                use = self._callers[caller] = _Use()
            elif use.requests >= free:
                raise overloaded(f"{use.requests} requests of this caller are in progress")
            use.requests += 1
        self.requests += 1

    def leave(self, caller: str | None = None) -> None:
        """Stop counting a request."""
        self.requests -= 1
        if caller is not None:
            use = self._callers[caller]
            use.requests -= 1
            if not use.requests:
                del self._callers[caller]

    def admit(self, version: ModelVersion, rows: int, nbytes: int, caller: str | None = None) -> None:
        """Count the rows of a request that has entered. Call `release` with the same arguments afterwards.

        A request that exceeds a limit on its own is admitted when nothing else is in progress, or it could never be
        answered. Limits on single requests are checked elsewhere.

        Raises:
            Overloaded: the request does not fit now.
        """
        limits = self._limits
        model = self._models.get(version)
        if model is None:
            model = _Use()
        elif model.requests >= limits.queued_requests_per_model or model.requests >= (
            limits.queued_requests - self.requests or 1
        ):
            raise overloaded(f"{model.requests} requests for {version} are in progress")
        if self.rows or self.nbytes:
            self._check(model, rows, nbytes, version)
        if caller is not None:
            user = self._callers[caller]
            if self.rows or self.nbytes:
                self._check(user, rows, nbytes, None)
            user.rows += rows
            user.nbytes += nbytes
        self._models[version] = model
        model.requests += 1
        model.rows += rows
        model.nbytes += nbytes
        self.rows += rows
        self.nbytes += nbytes

    def release(self, version: ModelVersion, rows: int, nbytes: int, caller: str | None = None) -> None:
        """Stop counting the rows of a request."""
        self.rows -= rows
        self.nbytes -= nbytes
        model = self._models[version]
        model.requests -= 1
        model.rows -= rows
        model.nbytes -= nbytes
        if not model.requests:
            del self._models[version]
        if caller is not None:
            user = self._callers[caller]
            user.rows -= rows
            user.nbytes -= nbytes

    def _check(self, use: _Use, rows: int, nbytes: int, version: ModelVersion | None) -> None:
        """Refuse rows of a version, or with None of a caller, that are more than it leaves free."""
        many_rows = self.rows and use.rows + rows > self._limits.queued_rows - self.rows
        if many_rows or (self.nbytes and use.nbytes + nbytes > self._limits.queued_bytes - self.nbytes):
            whose = "of this caller" if version is None else f"for {version}"
            if many_rows:
                raise overloaded(f"{use.rows} rows {whose} are in progress, {self.rows} in all")
            raise overloaded(f"{use.nbytes} bytes of input {whose} are in progress, {self.nbytes} in all")
