"""A model version in a gateway replica: reads rows by its signature, and predicts them in batches if it is row-wise.

`app.serving.batching_contract` says what that means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cached_property, partial

from app.errors import InvalidInput, InvalidRequest, ModelFailed
from app.serving.batching.batcher import AnsweredBatch, Batcher
from app.serving.batching.chunking import pieces, submit_pieces
from app.serving.batching.limits import BatchLimits
from app.serving.model_spec import ModelSpec
from app.serving.observation import Observation
from app.serving.placement.load import Backlog
from app.serving.ports import Directory
from app.serving.prediction.deadlines import expire_at, until
from app.serving.prediction.phases import ObservedParts
from app.serving.rows import Output, Rows, WrongRowCount, join, stack
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import no_rows
from app.settings import BatchSettings


class ServedModel:
    """A version with its spec, its compiled signature and its batchers.

    Args:
        batch: limits of a batch; the model's tags override them.
        answered: called for every batch of callers' requests that was answered.
        repeated: called with the number of requests that are predicted again, because an answer contradicts the
            batching contract.
    """

    def __init__(
        self,
        spec: ModelSpec,
        directory: Directory,
        batch: BatchSettings,
        answered: Callable[[AnsweredBatch], None] = lambda _: None,
        repeated: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.takes_json = spec.takes_json
        self._contract = spec.batching
        self._is_contradicted = False
        self.signature = Signature.compile(spec.inputs, spec.outputs, spec.params, hinted=spec.hinted)
        self._version = spec.key
        self._directory = directory
        self._batch = batch
        self._answered = answered
        self._repeated = repeated
        self._observed = ObservedParts()

    @cached_property
    def _batcher(self) -> Batcher[Rows, Output]:
        return Batcher(partial(self._call, again=True), self._limits, self._answered)

    @cached_property
    def _shadow_batcher(self) -> Batcher[Rows, Output]:
        """Batches shadow requests apart, so that they and callers' requests do not wait for each other."""
        # `ReplicaDied` is not of one part here: retrying the parts could kill one replica each.
        return Batcher(partial(self._call, again=False), self._limits, of_one=(ModelFailed, InvalidRequest))

    async def predict(
        self,
        rows: Rows,
        nbytes: int,
        deadline: float,
        observation: Observation | None = None,
        *,
        shadow: bool = False,
    ) -> Output:
        """Predict the rows of one request, in a batch with those of others if the version is row-wise.

        Args:
            nbytes: bytes of the rows.
            deadline: event loop time.
            observation: is told when the request waits for a batch and when its batch is called.
            shadow: the request is a copy for a shadow version.

        Raises:
            DeadlineExceeded: no answer before the deadline.
            InvalidInput: the model's type hint refuses the values, or the model fails because there are no rows.
            ModelFailed, ModelUnavailable, ReplicaDied, Unavailable: from the pool.
        """
        batcher = self._shadow_batcher if shadow else self._batcher
        row_wise = not rows.layout.alone and self._is_row_wise()
        if row_wise and (rows.count > batcher.max_rows or nbytes > batcher.max_bytes):
            output = await self._predict_pieces(batcher, rows, nbytes, deadline, observation)
            if output is not None:
                return output
            row_wise = False
        if observation is not None:
            self._observed.add(rows, observation)
        group = rows.layout if row_wise else object()  # equal to no other request's: alone in its call
        answer = batcher.submit(rows, group=group, rows=rows.count or 1, nbytes=nbytes, deadline=deadline)
        timer = expire_at(deadline, answer)
        try:
            output = await answer
        except ModelFailed:
            if rows.count:
                raise
            raise no_rows() from None
        finally:
            timer.cancel()
            if observation is not None:
                self._observed.forget(observation)
        if row_wise and not output.has_rows(rows.count):
            self._contradict(f"it answered {output.amount} for {rows.count} rows", again=0)
        return output

    def _is_row_wise(self) -> bool:
        if self.signature.fixed_rows is not None:  # it describes a whole call
            return False
        declared = self._directory.batch_overrides(self._version.name).row_wise
        return self._contract.row_wise if declared is None else declared

    async def _predict_pieces(
        self,
        batcher: Batcher[Rows, Output],
        rows: Rows,
        nbytes: int,
        deadline: float,
        observation: Observation | None,
    ) -> Output | None:
        """Predict a request that is larger than a batch in pieces. Returns None where it has to be predicted whole."""
        if rows.count == 1 or batcher.max_rows == 1:
            return None
        cuts = pieces(rows, nbytes, max_rows=batcher.max_rows, max_bytes=batcher.max_bytes)
        if observation is not None:
            cuts = self._observed.added(cuts, observation)
        try:
            async with until(deadline):
                answers = await submit_pieces(batcher, cuts, group=rows.layout, deadline=deadline)
        except InvalidInput:
            return None  # the row in the message is one of a piece
        finally:
            if observation is not None:
                self._observed.forget(observation)
        if all(output.has_rows(count) for count, output in answers):
            try:
                return join([output for _, output in answers])
            except ModelFailed as error:
                reason = error.message
        else:
            reason = "it answered another number of items than it was given rows"
        self._contradict(reason, again=1)
        return None

    def _contradict(self, reason: str, *, again: int) -> None:
        """Take note of an answer that a row-wise model would not give: no more batches, unless the tag says so.

        Args:
            again: requests that are predicted again because of it.
        """
        if again:
            self._repeated(again)
        self._contract = self._contract.contradicted(reason)
        if not self._is_contradicted:  # also where the tag declares what nothing has proven
            self._is_contradicted = True
            self._directory.contradicted(self._version, reason)

    def _limits(self) -> BatchLimits:
        self._contract = self._contract.contradicted(self._directory.contradiction(self._version))
        return self._directory.batch_overrides(self._version.name).over(self._batch)

    async def _call(self, parts: Sequence[Rows], *, again: bool) -> list[Output]:
        runner = self._directory.runner(self._version.name)
        if self._observed.parts:
            with self._observed.call(parts) as traces:
                output = await runner.predict(self._version, stack(parts), self._backlog(), again=again, traces=traces)
        else:
            output = await runner.predict(self._version, stack(parts), self._backlog(), again=again)
        try:
            return output.split([part.count for part in parts])
        except WrongRowCount as error:
            self._contradict(str(error), again=len(parts))
            raise  # the batcher predicts each part again, alone

    def _backlog(self) -> Backlog:
        now = asyncio.get_running_loop().time()
        batchers = [self._batcher, *([self._shadow_batcher] if "_shadow_batcher" in self.__dict__ else [])]
        waiting = [batcher for batcher in batchers if batcher.waiting_rows]
        if not waiting:
            return Backlog()
        return Backlog(
            sum(batcher.waiting_rows for batcher in waiting), max(batcher.oldest_wait_s(now) for batcher in waiting)
        )
