"""Merging in a pool: batches for one version that wait for a thread are predicted together, in one call.

Each gateway replica forms batches of its own, which are the smaller the more replicas there are, and many a model costs
the same for one row as for a hundred. `app.deployments.pool_member` merges what they send; what it brings is told in
``docs/adr/0005-in-flight-bound.md``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import NamedTuple

import numpy as np

from app.errors import ServingError
from app.serving.model_ref import ModelVersion
from app.serving.tables import Batch, Output

log = logging.getLogger(__name__)

_LARGE_BYTES = 2 * 1024**2
"""Batches from here on go alone: to copy them once more costs as much as a call."""


class _Waiting(NamedTuple):
    batch: Batch
    nbytes: int
    answer: asyncio.Future[Output]


class _AllGone(Exception):
    """Nobody waits any more for what a thread was to predict."""


class _Lane:
    """One version: how many calls are under way, and what waits for the next.

    `waiting` and `has_next` are shared with the threads, under `lock`. `has_next` tells that a call is on its way to a
    thread which will take what waits then.
    """

    __slots__ = ("has_next", "lock", "most_rows", "under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.most_rows = 0
        self.lock = threading.Lock()
        self.waiting: list[_Waiting] = []
        self.has_next = False


class Merger:
    """Calls a model, with several batches at once where they would have to wait. Lives on one event loop.

    While fewer than `most_calls` of a version are under way a batch is called as it is, in its caller's own task: no
    wait, and next to nothing is done for it. Else it waits together with others, and all that fit go as one call. What
    that holds is decided by the thread that predicts it, when it begins: till then batches join, and the thread finds
    its next work without the event loop, which may be late where models hold the GIL.

    A merged call belongs to nobody: it runs in an empty context, so that no caller's cancellation reaches the others,
    and who has gone by then is left out. Where it fails, each of its batches is called apart, so that only those at
    fault fail.

    Args:
        call: predicts a batch, or what a function returns, which it calls once, in the thread that predicts.
        most_calls: calls of one version that have threads at the same time.
        most_rows: how many rows a call of the version may have; 0 where batches must not be merged. Asked only when one
            would have to wait.
        max_bytes: most bytes of a merged batch.
    """

    def __init__(
        self,
        call: Callable[[ModelVersion, Batch | Callable[[], Batch]], Awaitable[Output]],
        *,
        most_calls: int,
        most_rows: Callable[[ModelVersion], int],
        max_bytes: int,
    ) -> None:
        self._call = call
        self._most_calls = most_calls
        self._most_rows = most_rows
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[ModelVersion, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(self, version: ModelVersion, batch: Batch) -> Output:
        """Predict a batch, perhaps together with others. Raises what `call` raises."""
        lane = self._lanes.get(version)
        if lane is None:
            lane = self._lanes[version] = _Lane()
        if lane.under_way < self._most_calls:
            lane.under_way += 1
            try:
                return await self._call(version, batch)
            finally:
                self._ended(version, lane)
        nbytes = batch.nbytes
        most_rows = self._most_rows(version)
        if batch.count >= most_rows or nbytes >= min(_LARGE_BYTES, self._max_bytes):
            return await self._call(version, batch)
        answer: asyncio.Future[Output] = self._loop.create_future()
        with lane.lock:
            lane.most_rows = most_rows
            lane.waiting.append(_Waiting(batch, nbytes, answer))
            joins, lane.has_next = lane.has_next, True
        if not joins:
            self._start(version, lane)
        return await answer

    def _start(self, version: ModelVersion, lane: _Lane) -> None:
        lane.under_way += 1
        task = self._loop.create_task(self._run(version, lane), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self, version: ModelVersion, lane: _Lane) -> None:
        lane.under_way -= 1
        if not lane.under_way and not lane.waiting:
            self._lanes.pop(version, None)

    def _take(self, version: ModelVersion, lane: _Lane) -> list[_Waiting]:
        """What has waited longest, and all that may go with it; the rest keeps its order. Called in any thread."""
        with lane.lock:
            taken: list[_Waiting] = []
            rest: list[_Waiting] = []
            rows = nbytes = 0
            for one in lane.waiting:
                batch = one.batch
                if one.answer.done():
                    continue
                fits = rows + batch.count <= lane.most_rows and nbytes + one.nbytes <= self._max_bytes
                if not taken or (fits and batch.layout == taken[0].batch.layout):
                    taken.append(one)
                    rows += batch.count
                    nbytes += one.nbytes
                else:
                    rest.append(one)
            lane.waiting = rest
            lane.has_next = bool(rest)
        if rest:
            self._loop.call_soon_threadsafe(self._start, version, lane)
        return taken

    async def _run(self, version: ModelVersion, lane: _Lane) -> None:
        parts: list[_Waiting] = []

        def take() -> Batch:
            parts.extend(self._take(version, lane))
            if not parts:
                raise _AllGone
            return merge([part.batch for part in parts])

        try:
            output = await self._call(version, take)
            _answer(parts, output)
        except _AllGone:
            pass
        except Exception as error:
            if len(parts) == 1:
                _fail(parts[0], error)
                return
            if not isinstance(error, ServingError):
                log.exception("%d merged batches of %s failed; they are called apart", len(parts), version)
            for part in parts or self._take(version, lane):  # it may have failed on its way to a thread
                if not part.answer.done():
                    await self._call_alone(version, part)
        finally:
            self._ended(version, lane)

    async def _call_alone(self, version: ModelVersion, part: _Waiting) -> None:
        try:
            _answer([part], await self._call(version, part.batch))
        except Exception as error:
            _fail(part, error)


def _answer(parts: Sequence[_Waiting], output: Output) -> None:
    for part, its_output in zip(parts, output.split([part.batch.count for part in parts]), strict=True):
        if not part.answer.done():
            part.answer.set_result(its_output)


def _fail(part: _Waiting, error: Exception) -> None:
    if not part.answer.done():
        part.answer.set_exception(error)


def merge(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, which have the same layout, in order."""
    first = batches[0]
    if len(batches) == 1:
        return first
    count = sum(batch.count for batch in batches)
    blocks = [batch.block for batch in batches if batch.block is not None]
    if len(blocks) == len(batches):
        block = np.concatenate(blocks, axis=1)
        return Batch(first.layout, tuple(block), count, block)
    arrays = zip(*(batch.arrays for batch in batches), strict=True)
    return Batch(first.layout, tuple(np.concatenate(parts) for parts in arrays), count)
