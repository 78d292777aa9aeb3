"""Calls with the JSON body of one request, answered at once or event by event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from app.hosting.answer_bound import check_answer
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

    async def invoke(self, version: ModelVersion, body: bytes, *, apart: bool = False) -> bytes:
        """Answer a JSON body with JSON.

        Args:
            apart: whether a process of its own has to hold the version.

        Raises:
            InvalidInput: the model does not take the body.
            ModelFailed: the model raised.
            ModelUnavailable, ModelNotFound, RegistryUnavailable: from the loader, or the load timed out.
        """
        async with self._host.using(version, apart=apart) as model:
            call, left = partial(model.invoke, body), partial(self._host.abandoned.add, version, model)
            # A model of rows is called as for rows: in as many threads as the pool promises.
            if model.spec.takes_json:
                answer = await self._threads.call(call, left)
            else:
                answer = await self._host.in_thread(version, call, left)
            check_answer(len(answer), self._host.answer_bytes)
            return answer

    async def stream(self, version: ModelVersion, body: bytes, *, apart: bool = False) -> AsyncGenerator[str]:
        """Answer a JSON body with the JSON of each event. Closing the generator stops the model at its next event.

        Raises:
            Overloaded: all threads are busy.
            ServingError: as `invoke`.
        """
        async with self._host.using(version, apart=apart) as model:
            left = partial(self._host.abandoned.add, version, model)
            async with aclosing(self._threads.iterate(partial(model.stream, body), left)) as events:
                async for event in events:
                    check_answer(len(event), self._host.answer_bytes)
                    yield event

    def close(self) -> None:
        """Stop the streams at their next event."""
        self._threads.close()
