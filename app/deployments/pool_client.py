"""Client of one model pool: a `ModelRunner` over a Ray Serve handle."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import cached_property

from app.deployments.rpc import Handle, answer
from app.errors import ReplicaDied
from app.serving.model_spec import ModelSpec
from app.serving.placement.load import Backlog, CallNote
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

_BY_REFERENCE_BYTES = 2 * 1024**2
"""From here on the object store is faster than a message; see `docs/adr/0009-large-arrays.md`."""


class PoolRunner:
    """A `ModelRunner` over the handle of one pool.

    Args:
        copies: how many replicas share the calls for a version.
    """

    def __init__(self, name: str, handle: Handle, copies: Callable[[ModelVersion], int]) -> None:
        self._part = f"pool '{name}'"
        self._handle = handle
        self._copies = copies
        self._sender = uuid.uuid4().hex

    async def describe(self, version: ModelVersion) -> ModelSpec:
        note = CallNote(self._copies(version))
        spec: ModelSpec = await answer(self._handle.describe.remote(version, note), self._part)
        return spec

    async def predict(self, version: ModelVersion, batch: Batch, backlog: Backlog, *, again: bool = True) -> Output:
        note = CallNote(self._copies(version), self._sender, backlog)
        call = self._by_message if batch.nbytes < _BY_REFERENCE_BYTES else self._by_reference
        try:
            output: Output = await answer(call.remote(version, batch, note), self._part)
        except ReplicaDied:
            if not again:
                raise
            # Once more on another replica. If that dies too, the batcher sends each of its requests apart.
            output = await answer(call.remote(version, batch, note), self._part)
        return output

    # Made once, with the event loop running: a handle makes another handle each time a method of it is named.

    @cached_property
    def _by_message(self) -> Handle:
        """Calls by gRPC. Batches are plain data, so that the plain pickle does, at a fraction of cloudpickle's cost."""
        return self._handle.options(
            method_name="predict", request_serialization="pickle", response_serialization="pickle"
        )

    @cached_property
    def _by_reference(self) -> Handle:
        """Calls by Ray's object store, which copies large arrays once and not four times."""
        return self._handle.options(method_name="predict", _by_reference=True)
