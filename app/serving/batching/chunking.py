"""Sending a request that is larger than a batch in pieces. `app.serving.prediction.served_model` joins the results."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Iterable, Iterator
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


async def submit_pieces(
    batcher: Batcher[P, R], pieces: Iterable[Piece[P]], *, group: Hashable, deadline: float
) -> list[tuple[int, R]]:
    """Return the number of rows and the result of each piece, in order.

    The first error of any piece, or cancellation, withdraws the others.

    At any time, only as many pieces wait or are in flight as fill the batches that may be in flight. So several large
    requests take turns, and each piece is cut shortly before it is sent.
    """
    numbered = enumerate(pieces)
    pending: dict[asyncio.Future[R], tuple[int, int]] = {}
    results: dict[int, tuple[int, R]] = {}
    try:
        while True:
            pending_rows = sum(rows for _, rows in pending.values())
            while pending_rows < batcher.max_rows * batcher.in_flight_bound:
                index, piece = next(numbered, (0, None))
                if piece is None:
                    break
                future = batcher.submit(
                    piece.payload,
                    group=group,
                    rows=piece.rows,
                    nbytes=piece.nbytes,
                    deadline=deadline,
                    admitted=index > 0,
                )
                pending[future] = (index, piece.rows)
                pending_rows += piece.rows
            if not pending:
                return [results[index] for index in range(len(results))]
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                index, rows = pending.pop(future)
                results[index] = rows, future.result()
    finally:
        for future in pending:
            if not future.cancel():
                future.exception()  # always read, or asyncio logs it as lost
