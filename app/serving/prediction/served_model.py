"""A model version in a gateway replica: reads rows by its signature and predicts them in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any

from app.errors import DeadlineExceeded, InvalidRequest, ModelFailed
from app.serving.batching.batcher import AnsweredBatch, Batcher
from app.serving.batching.chunking import Piece, pieces, submit_pieces
from app.serving.batching.limits import BatchLimits
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import Backlog
from app.serving.ports import Directory
from app.serving.rows import Output, Rows, join, stack
from app.serving.signatures.signature import Signature
from app.settings import BatchSettings


class ServedModel:
    """A version with its spec, its compiled signature and its batchers.

    Args:
        batch: limits of a batch; the model's tags override them.
        answered: called for every batch of callers' requests that was answered.
    """

    def __init__(
        self,
        spec: ModelSpec,
        directory: Directory,
        batch: BatchSettings,
        answered: Callable[[AnsweredBatch], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.signature = Signature.compile(spec.inputs, spec.outputs, spec.params)
        self._version = spec.key
        self._directory = directory
        self._batch = batch
        self._answered = answered

    @cached_property
    def _batcher(self) -> Batcher[Rows, Output]:
        return Batcher(partial(self._call, again=True), self._limits, self._answered)

    @cached_property
    def _shadow_batcher(self) -> Batcher[Rows, Output]:
        """Batches shadow requests apart, so that they and callers' requests do not wait for each other."""
        # `ReplicaDied` is not of one part here: retrying the parts could kill one replica each.
        return Batcher(partial(self._call, again=False), self._limits, of_one=(ModelFailed, InvalidRequest))

    async def predict(self, rows: Rows, nbytes: int, deadline: float, *, shadow: bool = False) -> Output:
        """Predict the rows of one request, in a batch with those of others.

        Args:
            nbytes: bytes of the rows.
            deadline: event loop time.
            shadow: the request is a copy for a shadow version.

        Raises:
            DeadlineExceeded: no answer before the deadline.
            ModelFailed, ModelUnavailable, ReplicaDied, Unavailable: from the pool.
        """
        batcher = self._shadow_batcher if shadow else self._batcher
        # A signature with a fixed number of rows describes a whole call: such requests are never stacked.
        group = rows.layout if self.signature.fixed_rows is None else object()
        cuts = self._cut(rows, nbytes)
        if cuts is not None:
            async with until(deadline):
                return join(await submit_pieces(batcher, cuts, group=group, deadline=deadline))
        answer = batcher.submit(rows, group=group, rows=rows.count, nbytes=nbytes, deadline=deadline)
        # A third of the cost of `until`.
        timer = asyncio.get_running_loop().call_at(deadline, _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def _cut(self, rows: Rows, nbytes: int) -> Iterator[Piece[Rows]] | None:
        """Cut a request that is larger than a batch; None if it is sent whole."""
        batcher = self._batcher
        if rows.count <= batcher.max_rows and nbytes <= batcher.max_bytes:
            return None
        # A model that is not row-wise may look at the rows together.
        if not self.signature.by_row or rows.count == 1 or batcher.max_rows == 1:
            return None
        return pieces(rows, nbytes, max_rows=batcher.max_rows, max_bytes=batcher.max_bytes)

    def _limits(self) -> BatchLimits:
        return self._directory.batch_overrides(self._version.name).over(self._batch)

    async def _call(self, parts: Sequence[Rows], *, again: bool) -> list[Output]:
        runner = self._directory.runner(self._version.name)
        output = await runner.predict(self._version, stack(parts), self._backlog(), again=again)
        return output.split([part.count for part in parts])

    def _backlog(self) -> Backlog:
        now = asyncio.get_running_loop().time()
        batchers = [self._batcher, *([self._shadow_batcher] if "_shadow_batcher" in self.__dict__ else [])]
        waiting = [batcher for batcher in batchers if batcher.waiting_rows]
        if not waiting:
            return Backlog()
        return Backlog(
            sum(batcher.waiting_rows for batcher in waiting), max(batcher.oldest_wait_s(now) for batcher in waiting)
        )


@asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Cancel what runs inside at a deadline, in event loop time. Raises `DeadlineExceeded` then."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise _late() from None


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_late())


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the request was not answered before its deadline")
