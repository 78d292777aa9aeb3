"""A request that is larger than a batch, sent in pieces. `app.serving.prediction.service` joins the answers."""

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
    """A cut of a request."""

    payload: P
    rows: int
    nbytes: int


def pieces(rows: Rows, nbytes: int, *, max_rows: int, max_bytes: int) -> Iterator[Piece[Rows]]:
    """Cut rows into pieces of about equal size, several of which fit a batch: beside one, there is room for others.

    Args:
        nbytes: bytes of all rows.
        max_rows, max_bytes: bounds of a batch.
    """
    size = max(1, min(max_rows, int(rows.count * max_bytes / max(nbytes, 1))) // LARGE_SHARE)
    number = math.ceil(rows.count / size)
    for index in range(number):
        start, stop = (rows.count * edge // number for edge in (index, index + 1))
        piece = rows.cut(start, stop)
        yield Piece(piece, piece.count, piece.nbytes)


class SplitRequest(asyncio.Future[list[R]], Generic[P, R]):
    """The answers to all pieces, in order. Cancel it to withdraw what has not been sent.

    It is answered with the first error of any piece, and the others are withdrawn then. No more pieces wait or are
    under way at a time than fill the batches that may be under way, so that several such requests take turns, and a
    piece is cut off only shortly before it is sent.
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
        """The caller has gone."""
        cancelled = super().cancel(msg)
        self._withdraw()
        return cancelled

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """It fails: a piece did, or its deadline has passed."""
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
        error = None if future.cancelled() else future.exception()  # asked for in any case, or asyncio logs it as lost
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
