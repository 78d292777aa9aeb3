"""Shadow requests: copies of callers' requests for a shadow version, whose answers are compared with the callers'.

`app.serving.prediction.service` starts them after it has answered. A shadow request delays and fails no caller: it runs
in its own task, in an empty context, within limits, and is never retried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import NamedTuple

from app.errors import DeadlineExceeded, ServingError
from app.serving.comparison.prediction_diff import Disagreement, disagreement
from app.serving.comparison.statistics import COMPARED, INCOMPARABLE, ShadowPair, ShadowResult
from app.serving.ports import Recorder
from app.serving.releases.traffic import Traffic
from app.serving.rows import Output
from app.settings import ShadowSettings

log = logging.getLogger(__name__)

TOO_MANY_REQUESTS = "requests"
TOO_MANY_ROWS = "rows"
TOO_MANY_BYTES = "bytes"
"""Reasons to drop a shadow request."""

_THREAD_BYTES = 256 * 1024
"""Answers of at least this size are compared in a thread, off the event loop. 60 MB of numbers take 80 ms."""


class Original(NamedTuple):
    """A caller's answer, after `seconds`. `nbytes`: memory that its shadow request holds, this answer included."""

    output: Output
    seconds: float
    nbytes: int


class Shadowing:
    """The shadow requests of one gateway replica. Use it on one event loop."""

    def __init__(self, limits: ShadowSettings, recorder: Recorder) -> None:
        self._limits = limits
        self._recorder = recorder
        self._thread = ThreadPoolExecutor(1, "comparison")  # one thread leaves the other cores to callers
        self._tasks: set[asyncio.Task[None]] = set()
        self.rows = 0
        self.nbytes = 0

    @property
    def requests(self) -> int:
        """Shadow requests in progress."""
        return len(self._tasks)

    def send(
        self,
        pair: ShadowPair,
        traffic: Traffic,
        predict: Callable[[float], Awaitable[Output]],
        base: Original,
    ) -> None:
        """Start a shadow request, or drop it if a limit is reached.

        Args:
            predict: answers the request with the shadow version, by a deadline in event loop time.
            base: the caller's answer.
        """
        cause = self._limit_reached(base)
        if cause is not None:
            self._recorder.shadow_dropped(pair, traffic, cause)
            return
        self.rows += base.output.count
        self.nbytes += base.nbytes
        # In an empty context: Serve finds a request's work by context variables and cancels it on disconnect.
        task = asyncio.get_running_loop().create_task(self._run(pair, traffic, predict, base), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _limit_reached(self, base: Original) -> str | None:
        if len(self._tasks) >= self._limits.max_requests:
            return TOO_MANY_REQUESTS
        if self.rows + base.output.count > self._limits.max_rows:
            return TOO_MANY_ROWS
        return TOO_MANY_BYTES if self.nbytes + base.nbytes > self._limits.max_bytes else None

    async def _run(
        self,
        pair: ShadowPair,
        traffic: Traffic,
        predict: Callable[[float], Awaitable[Output]],
        base: Original,
    ) -> None:
        started = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + self._limits.timeout_s
        difference = None
        try:
            async with asyncio.timeout_at(deadline):
                output = await predict(deadline)
            seconds = time.perf_counter() - started
            difference = await self._difference(output, base)
            outcome = COMPARED if difference is not None else INCOMPARABLE
        except Exception as error:
            seconds = time.perf_counter() - started
            outcome = _code(pair, error)
        finally:
            self.rows -= base.output.count
            self.nbytes -= base.nbytes
        self._recorder.shadowed(
            pair, traffic, ShadowResult(outcome, seconds, base.seconds, base.output.count, difference)
        )

    async def _difference(self, output: Output, base: Original) -> Disagreement | None:
        if base.nbytes < _THREAD_BYTES:
            return disagreement(output, base.output)
        return await asyncio.get_running_loop().run_in_executor(self._thread, disagreement, output, base.output)


def _code(pair: ShadowPair, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded.code
    if not isinstance(error, ServingError):
        log.warning("shadow request failed: model=%s/versions/%s", pair.name, pair.shadow, exc_info=error)
        return ServingError.code
    return error.code
