"""A bound on the memory of request bodies: their bytes are counted while they arrive."""

from __future__ import annotations

from app.errors import Overloaded

_RETRY_AFTER_S = 1


class BodyBudget:
    """Counts the bytes of the bodies that came in several parts, until they are answered. Use it on one event loop.

    A body that comes whole with its head, as nearly all do, is at most as large as the server's read buffer and is not
    counted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.nbytes = 0

    def take(self, nbytes: int, before: int) -> None:
        """Count bytes that have arrived, after `before` bytes of the same body. Call `give` with their sum at the end.

        A body that is over the limit on its own is admitted when no other one is counted.

        Raises:
            Overloaded: all bodies together are over the limit.
        """
        if self.nbytes > before and self.nbytes + nbytes > self._limit:
            message = f"{self.nbytes} bytes of request bodies are in progress; try again in {_RETRY_AFTER_S} s"
            raise Overloaded(message, {"retry_after_s": _RETRY_AFTER_S})
        self.nbytes += nbytes

    def give(self, nbytes: int) -> None:
        """Stop counting bytes."""
        self.nbytes -= nbytes
