"""Clients of one model pool, in replicas of its own or in this process."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import cached_property, partial

from ray.serve.handle import DeploymentHandle

from app.deployments.pool_lanes import PoolLanes
from app.deployments.pool_member import PoolMember
from app.deployments.remotes import RemotePool
from app.deployments.rpc import Remote, raised
from app.errors import ReplicaDied, ServingError
from app.serving.model_spec import ModelSpec
from app.serving.observation import TraceCarrier
from app.serving.placement.load import Backlog, CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

_BY_REFERENCE_BYTES = 2 * 1024**2
"""Batches of at least this size travel through the object store; see `docs/adr/0009-large-arrays.md`."""

_TRUSTED_BATCHES = 20
"""Batches that a version has to answer after a death of a process that ran it, before it counts as innocent again."""

_MOST_COUNTED = 10_000
"""Versions whose answers are counted."""

_Predict = Callable[[ModelVersion, Batch, CallNote], Awaitable[Output]]


class PoolClient:
    """A `ModelRunner` over the handle of one pool.

    Args:
        copies: returns how many replicas share the calls for a version.
        lanes: carry the batches, except where no lane leads to a replica that holds the version.
    """

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle,
        copies: Callable[[ModelVersion], int],
        lanes: PoolLanes | None = None,
    ) -> None:
        self._lanes = lanes
        self._pool = Remote(handle, f"pool '{name}'")
        self._copies = copies
        self._sender = uuid.uuid4().hex
        self._answered: dict[ModelVersion, int] = {}

    async def describe(self, version: ModelVersion) -> ModelSpec:
        return await self._pool.call(RemotePool.describe, version, CallNote(self._copies(version)))

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        backlog: Backlog,
        *,
        again: bool = True,
        traces: Sequence[TraceCarrier] = (),
    ) -> Output:
        note = CallNote(self._copies(version), self._sender, backlog, tuple(traces))
        retried = False
        while True:
            try:
                output = await self._carrier(version, batch, note)(version, batch, note)
            except ReplicaDied as death:
                suspected = death.began and not self._is_trusted(version)
                # One retry on another replica, and one more in a worker if that dies of the batch too. Then the batcher
                # sends each request of the batch alone.
                if not again or note.apart or (retried and not suspected):
                    raise
                note, retried = note._replace(apart=suspected), True
            else:
                self._count(version)
                return output

    def _count(self, version: ModelVersion) -> None:
        """Count an answered batch, as far as trust needs it."""
        answered = self._answered.get(version, 0)
        if answered < _TRUSTED_BATCHES:
            if len(self._answered) >= _MOST_COUNTED:
                self._answered.clear()
            self._answered[version] = answered + 1

    def _is_trusted(self, version: ModelVersion) -> bool:
        """Return whether a version may go on in a process that models share, although one has died while it ran it.

        It may if it has answered many batches since the last time, because replicas die of other causes too.
        """
        return self._answered.pop(version, 0) >= _TRUSTED_BATCHES

    def _carrier(self, version: ModelVersion, batch: Batch, note: CallNote) -> _Predict:
        lane = self._lanes.choose(version, note.copies) if self._lanes is not None else None
        if lane is not None:
            return lane.call
        return self._by_message if batch.nbytes < _BY_REFERENCE_BYTES else self._by_reference

    async def invoke(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> bytes:
        note = CallNote(self._copies(version), traces=tuple(traces))
        try:
            return await self._pool.call(RemotePool.invoke, version, body, note)
        except ReplicaDied:  # perhaps because of this call
            note = note._replace(apart=True)
            return await self._pool.call(RemotePool.invoke, version, body, note)

    def stream(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> AsyncGenerator[str]:
        start = partial(self._events, version, body, tuple(traces))
        return _once_more(start, partial(start, apart=True))

    async def _events(
        self, version: ModelVersion, body: bytes, traces: tuple[TraceCarrier, ...], *, apart: bool = False
    ) -> AsyncGenerator[str]:
        note = CallNote(self._copies(version), traces=traces, apart=apart)
        async with aclosing(self._stream(version, body, note)) as events:
            async for event in events:
                yield raised(event)

    @cached_property
    def _stream(self) -> Callable[[ModelVersion, bytes, CallNote], AsyncGenerator[str | ServingError]]:
        return self._pool.bind_stream(
            RemotePool.stream, request_serialization="pickle", response_serialization="pickle"
        )

    @cached_property
    def _by_message(self) -> _Predict:
        # Batches are plain data: pickle packs them at a fraction of cloudpickle's cost.
        return self._pool.bind(RemotePool.predict, request_serialization="pickle", response_serialization="pickle")

    @cached_property
    def _by_reference(self) -> _Predict:
        # The object store copies large arrays once, a message four times.
        return self._pool.bind(RemotePool.predict, _by_reference=True)


class LocalPoolClient:
    """A `ModelRunner` over a pool member in this process."""

    def __init__(self, member: PoolMember) -> None:
        self._member = member

    async def describe(self, version: ModelVersion) -> ModelSpec:
        return await self._member.describe(version)

    async def predict(
        self,
        version: ModelVersion,
        batch: Batch,
        backlog: Backlog,
        *,
        again: bool = True,
        traces: Sequence[TraceCarrier] = (),
    ) -> Output:
        note = _note(traces)
        for array in batch.arrays:  # a retry sends them again, so a model that writes into its input gets a copy
            array.flags.writeable = False
        try:
            return await self._member.predict(version, batch, note)
        except ReplicaDied:  # the worker process that held the model
            if not again:
                raise
        return await self._member.predict(version, batch, note)

    async def invoke(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> bytes:
        try:
            return await self._member.invoke(version, body, _note(traces))
        except ReplicaDied:
            return await self._member.invoke(version, body, _note(traces))

    def stream(self, version: ModelVersion, body: bytes, traces: Sequence[TraceCarrier] = ()) -> AsyncGenerator[str]:
        start = partial(self._member.stream, version, body, _note(traces))
        return _once_more(start, start)


def _note(traces: Sequence[TraceCarrier]) -> CallNote | None:
    """Return what a member in this process needs to know: it sees the backlog itself."""
    return CallNote(traces=tuple(traces)) if traces else None


async def _once_more(
    start: Callable[[], AsyncGenerator[str]], again: Callable[[], AsyncGenerator[str]]
) -> AsyncGenerator[str]:
    """Yield the events of a stream. Start it again if its process dies before the first event."""
    has_begun = False
    try:
        async with aclosing(start()) as events:
            async for event in events:
                has_begun = True
                yield event
            return
    except ReplicaDied:
        if has_begun:  # the caller has a part of the answer
            raise
    async with aclosing(again()) as events:
        async for event in events:
            yield event
