"""Blocking calls with an end: for libraries whose own timeouts do not cover every way of hanging.

A read timeout starts again with every byte that arrives, and a database driver may have none. `RegistryConnection`
makes its calls through here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_ABANDONED = 8
"""Each call that is not waited for any more keeps a thread until its library gives up."""


class BoundedCalls:
    """Runs each call in a thread of its own, which is left behind when it takes too long."""

    def __init__(self) -> None:
        self._abandoned: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises. `TimeoutError` where it is not done in time, or too many hang already."""
        with self._lock:
            if len(self._abandoned) >= _MOST_ABANDONED:
                raise TimeoutError("calls made before hang still")
        outcome: Future[T] = Future()
        # A daemon: what hangs must not keep the process from ending.
        threading.Thread(target=self._run, args=(copy_context(), work, outcome), name="bounded", daemon=True).start()
        try:
            return outcome.result(seconds)
        except TimeoutError:
            with self._lock:
                if not outcome.done():
                    self._abandoned.add(outcome)
            raise
        finally:
            del outcome  # an error refers to this frame

    def _run(self, context: Context, work: Callable[[], T], outcome: Future[T]) -> None:
        try:
            result = context.run(work)
        except BaseException as error:
            with self._lock:
                self._abandoned.discard(outcome)
                outcome.set_exception(error)
        else:
            with self._lock:
                self._abandoned.discard(outcome)
                outcome.set_result(result)
        finally:
            del outcome
