"""Calls with the JSON body of one request, answered at once or event by event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from app.hosting.model_host import ModelHost
from app.hosting.stream_threads import StreamThreads
from app.serving.references import ModelVersion


class JsonCalls:
    """JSON calls to the models of a host, in threads of their own: such calls are slow, and predictions must not wait.

    Args:
        threads: concurrent calls and streams.
    """

    def __init__(self, host: ModelHost, threads: int) -> None:
        self._host = host
        self._threads = StreamThreads(threads)

    @property
    def busy(self) -> float:
        """Calls and streams in progress, as a share of the threads."""
        return self._threads.busy

    async def invoke(self, version: ModelVersion, body: bytes) -> bytes:
        """Answer a JSON body with JSON.

        Raises:
            InvalidInput: the model does not take the body.
            ModelFailed: the model raised.
            ModelUnavailable, ModelNotFound, RegistryUnavailable: from the loader, or the load timed out.
        """
        async with self._host.using(version) as model:
            call = partial(model.invoke, body)
            # A model of rows is called as for rows: in as many threads as the pool promises.
            if model.spec.takes_json:
                return await self._threads.call(call)
            return await self._host.in_thread(version, call)

    async def stream(self, version: ModelVersion, body: bytes) -> AsyncGenerator[str]:
        """Answer a JSON body with the JSON of each event. Closing the generator stops the model at its next event.

        Raises:
            Overloaded: all threads are busy.
            ServingError: as `invoke`.
        """
        async with (
            self._host.using(version) as model,
            aclosing(self._threads.iterate(partial(model.stream, body))) as events,
        ):
            async for event in events:
                yield event

    def close(self) -> None:
        """Stop the streams at their next event."""
        self._threads.close()
