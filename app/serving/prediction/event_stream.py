"""An answer that arrives event by event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Self

from app.errors import DeadlineExceeded, ServingError
from app.serving.references import ModelVersion


class EventStream:
    """The events of one answer, each as the JSON text of the model. Close it, or the model goes on.

    Args:
        version: the version that answers.
        events: the events after `first`; they are closed at the end.
        first: the first event; None if there are no events.
        idle_s: maximum seconds between two events.
        ended: called once, with the number of events and the error that ended them, if any.
    """

    def __init__(
        self,
        version: ModelVersion,
        events: AsyncGenerator[str],
        first: str | None,
        idle_s: float,
        ended: Callable[[int, Exception | None], None],
    ) -> None:
        self.version = version
        self._events = events
        self._first = first
        self._idle_s = idle_s
        self._ended: Callable[[int, Exception | None], None] | None = ended
        self._count = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next event.

        Raises:
            DeadlineExceeded: there was none for `idle_s` seconds.
            ServingError: as `PredictionService.predict`; no event follows.
        """
        event, self._first = self._first, None
        if event is None:
            try:
                async with asyncio.timeout(self._idle_s):
                    event = await anext(self._events)
            except TimeoutError:
                late = DeadlineExceeded(f"the model sent no event for {self._idle_s:g} s")
                self._end(late)
                raise late from None
            except StopAsyncIteration:
                self._end(None)
                raise
            except Exception as error:
                self._end(error)
                raise
        self._count += 1
        return event

    async def aclose(self) -> None:
        """Stop the model, if it has not finished."""
        self._end(None)
        with suppress(ServingError):
            await self._events.aclose()

    def _end(self, error: Exception | None) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(self._count, error)
