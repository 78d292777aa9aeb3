"""Single flight: concurrent requests for the same work share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs one task per key; every caller with that key awaits it.

    The task runs in an empty context and is shielded, so a caller that leaves does not cancel it.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return or raise what the task for `key` does; start one with `work` where none is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(work(), context=Context())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    def _finish(self, key: K, task: asyncio.Task[V]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio reports it when every caller has left

    def __contains__(self, key: K) -> bool:
        return key in self._tasks
