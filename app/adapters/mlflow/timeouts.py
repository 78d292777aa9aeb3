"""Time limits for blocking calls into libraries whose own timeouts do not cover every way of hanging.

A read timeout starts again with every byte that arrives, and a database driver may have none. `RegistryConnection` and
``ml-serve doctor`` call through here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_ABANDONED = 8


class BoundedCalls:
    """Runs each call in a thread of its own, and abandons the thread if the call takes too long. Thread-safe.

    A hanging call keeps its thread until the library gives up. Therefore no call is made while 8 of them hang.
    """

    def __init__(self) -> None:
        self._abandoned: set[Future[Any]] = set()

    def run(self, work: Callable[[], T], timeout_s: float) -> T:
        """Return or raise what `work` does. Raises `TimeoutError` after `timeout_s`, or if too many calls hang."""
        if len(self._abandoned) >= _MAX_ABANDONED:
            raise TimeoutError("earlier calls still hang")
        outcome: Future[T] = Future()
        # A daemon, because a hanging call must not keep the process from ending.
        threading.Thread(target=copy_context().run, args=(_settle, outcome, work), name="bounded", daemon=True).start()
        try:
            return outcome.result(timeout_s)
        except TimeoutError:
            if outcome.done():  # at the last moment, or `work` raised the error
                return outcome.result()
            self._abandoned.add(outcome)
            outcome.add_done_callback(self._abandoned.discard)
            raise TimeoutError(f"did not answer within {timeout_s:g} s") from None
        finally:
            del outcome  # breaks the reference cycle of an error and this frame


def _settle(outcome: Future[T], work: Callable[[], T]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)
    finally:
        del outcome
