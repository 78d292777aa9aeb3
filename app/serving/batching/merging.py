"""Merging in a pool: batches for one version that come while its threads are busy leave together as one call.

Each gateway replica forms batches of its own, which are the smaller the more replicas there are, and many a model costs
the same for one row as for a hundred. `app.deployments.pool_member` merges what they send; what it brings is told in
``docs/adr/0005-in-flight-bound.md``.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import NamedTuple

import numpy as np

from app.errors import ServingError
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

log = logging.getLogger(__name__)

_LARGE_BYTES = 2 * 1024**2
"""Batches from here on go alone: to copy them once more costs as much as a call."""


class _Waiting(NamedTuple):
    batch: Batch
    nbytes: int
    answer: asyncio.Future[Output]


class _Lane:
    """One version: how many calls are under way, and what waits for the next."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[_Waiting] = deque()


class Merger:
    """Calls a model, with several batches at once where they would have to wait. Lives on one event loop.

    While fewer than `most_calls` of a version are under way a batch is called as it is, in its caller's own task: no
    wait, and nothing is built for it. Else it waits, and goes with all that fit it as soon as one of them ends. A
    merged call belongs to nobody: it runs in an empty context, so that no caller's cancellation reaches the others, and
    who has gone by then is left out. Where it fails, each of its batches is called apart, so that only those at fault
    fail.

    Args:
        call: predicts a batch.
        most_calls: of one version at a time: there is no use in more than there are threads.
        most_rows: how many rows a call of the version may have; 0 where batches must not be merged. Asked only when one
            would have to wait.
        max_bytes: most bytes of a merged batch.
    """

    def __init__(
        self,
        call: Callable[[ModelVersion, Batch], Awaitable[Output]],
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
        if lane.under_way < self._most_calls:  # then nothing waits
            lane.under_way += 1
            try:
                return await self._call(version, batch)
            finally:
                self._ended(version, lane)
        nbytes = batch.nbytes
        if batch.count >= self._most_rows(version) or nbytes >= min(_LARGE_BYTES, self._max_bytes):
            return await self._call(version, batch)
        answer: asyncio.Future[Output] = self._loop.create_future()
        lane.waiting.append(_Waiting(batch, nbytes, answer))
        return await answer

    def _ended(self, version: ModelVersion, lane: _Lane) -> None:
        lane.under_way -= 1
        while lane.waiting and lane.under_way < self._most_calls:
            parts = self._take(version, lane)
            if parts:
                lane.under_way += 1
                task = self._loop.create_task(self._run(version, lane, parts), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if not lane.under_way:
            del self._lanes[version]

    def _take(self, version: ModelVersion, lane: _Lane) -> list[_Waiting]:
        """What has waited longest, and all that may go with it; the rest keeps its order."""
        waiting = [one for one in lane.waiting if not one.answer.done()]
        lane.waiting.clear()
        if len(waiting) < 2:
            return waiting
        most_rows = self._most_rows(version)  # a tag may have changed meanwhile
        layout, rows, nbytes = waiting[0].batch.layout, 0, 0
        taken: list[_Waiting] = []
        for one in waiting:
            batch = one.batch
            fits = rows + batch.count <= most_rows and nbytes + one.nbytes <= self._max_bytes
            if not taken or (fits and batch.layout == layout):
                taken.append(one)
                rows += batch.count
                nbytes += one.nbytes
            else:
                lane.waiting.append(one)
        return taken

    async def _run(self, version: ModelVersion, lane: _Lane, parts: Sequence[_Waiting]) -> None:
        try:
            await self._answer(version, parts)
        finally:
            self._ended(version, lane)

    async def _answer(self, version: ModelVersion, parts: Sequence[_Waiting]) -> None:
        try:
            output = await self._call(version, merge([part.batch for part in parts]))
            outputs = output.split([part.batch.count for part in parts])
        except Exception as error:
            if len(parts) == 1:
                if not parts[0].answer.done():
                    parts[0].answer.set_exception(copy.copy(error))
                return
            if not isinstance(error, ServingError):
                log.exception("%d merged batches of %s failed; they are called apart", len(parts), version)
            for part in parts:
                if not part.answer.done():
                    await self._answer(version, [part])
            return
        for part, its_output in zip(parts, outputs, strict=True):
            if not part.answer.done():
                part.answer.set_result(its_output)


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
