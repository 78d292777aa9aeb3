"""Sending a request that is larger than a batch in pieces. `app.serving.prediction.service` joins the results."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from app.serving.batching.batcher import Batcher
from app.serving.batching.queue import LARGE_SHARE
from app.serving.rows import Rows

P = TypeVar("P")
R = TypeVar("R")


class Piece(NamedTuple, Generic[P]):
    """A piece of a request."""

    payload: P
    rows: int
    nbytes: int


def pieces(rows: Rows, nbytes: int, *, max_rows: int, max_bytes: int) -> Iterator[Piece[Rows]]:
    """Cut rows into pieces of about equal size. Several pieces fit a batch, so that other requests fit beside one.

    Args:
        nbytes: bytes of all rows.
        max_rows, max_bytes: limits of a batch.
    """
    size = max(1, min(max_rows, int(rows.count * max_bytes / max(nbytes, 1))) // LARGE_SHARE)
    number = math.ceil(rows.count / size)
    for index in range(number):
        start, stop = (rows.count * edge // number for edge in (index, index + 1))
        piece = rows.cut(start, stop)
        yield Piece(piece, piece.count, piece.nbytes)


class SplitRequest(asyncio.Future[list[R]], Generic[P, R]):
    """The results of all pieces, in order. Cancel it to withdraw the pieces that have not been sent.

    The first error of any piece fails the request and withdraws the others. At any time, only as many pieces wait or
    are in flight as fill the batches that may be in flight. So several large requests take turns, and each piece is
    cut shortly before it is sent.
    """

    def __init__(self, batcher: Batcher[P, R], pieces: Iterable[Piece[P]], *, group: Hashable, deadline: float) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._batcher = batcher
        self._pieces: Iterator[tuple[int, Piece[P]]] = enumerate(pieces)
        self._group = group
        self._deadline = deadline
        self._pending: dict[int, asyncio.Future[R]] = {}
        self._pending_rows = 0
        self._results: dict[int, R] = {}
        self._advance()

    def cancel(self, msg: object = None) -> bool:
        """Cancel the request and withdraw its pieces."""
        cancelled = super().cancel(msg)
        self._withdraw()
        return cancelled

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """Fail the request and withdraw its pieces."""
        super().set_exception(exception)
        self._withdraw()

    def _advance(self) -> None:
        most_rows = self._batcher.max_rows * self._batcher.in_flight_bound
        while self._pending_rows < most_rows:
            index, piece = next(self._pieces, (0, None))
            if piece is None:
                break
            future = self._batcher.submit(
                piece.payload, group=self._group, rows=piece.rows, nbytes=piece.nbytes, deadline=self._deadline
            )
            self._pending[index] = future
            self._pending_rows += piece.rows
            future.add_done_callback(partial(self._answered, index, piece.rows))
        if not self._pending:
            self.set_result([self._results[index] for index in range(len(self._results))])

    def _answered(self, index: int, rows: int, future: asyncio.Future[R]) -> None:
        self._pending.pop(index, None)
        self._pending_rows -= rows
        error = None if future.cancelled() else future.exception()  # always read, or asyncio logs it as lost
        if self.done():
            return
        if future.cancelled():
            self.cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self._results[index] = future.result()
            self._advance()

    def _withdraw(self) -> None:
        for future in list(self._pending.values()):
            future.cancel()
