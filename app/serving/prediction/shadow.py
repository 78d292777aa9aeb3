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
from app.serving.comparison.prediction_diff import disagreement
from app.serving.comparison.statistics import COMPARED, INCOMPARABLE, ShadowPair, ShadowResult
from app.serving.ports import Recorder
from app.serving.releases.traffic import Traffic
from app.serving.rows import Output
from app.settings import ShadowSettings

log = logging.getLogger(__name__)

_THREAD_BYTES = 256 * 1024
"""Answers of at least this size are compared in a thread, off the event loop. 60 MB of numbers take 80 ms."""


class ShadowRequest(NamedTuple):
    """A copy of a caller's request for the shadow version.

    `predict` answers it by a deadline in event loop time. `output` is the caller's answer, after `seconds`. `nbytes`:
    memory that the shadow request holds, this answer included.
    """

    pair: ShadowPair
    traffic: Traffic
    predict: Callable[[float], Awaitable[Output]]
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

    def send(self, request: ShadowRequest) -> None:
        """Start a shadow request, or drop it if a limit is reached."""
        cause = self._limit_reached(request)
        if cause is not None:
            self._recorder.shadow_dropped(request.pair, request.traffic, cause)
            return
        self.rows += request.output.count
        self.nbytes += request.nbytes
        # In an empty context: Serve finds a request's work by context variables and cancels it on disconnect.
        task = asyncio.get_running_loop().create_task(self._run(request), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _limit_reached(self, request: ShadowRequest) -> str | None:
        if len(self._tasks) >= self._limits.max_requests:
            return "requests"
        if self.rows + request.output.count > self._limits.max_rows:
            return "rows"
        return "bytes" if self.nbytes + request.nbytes > self._limits.max_bytes else None

    async def _run(self, request: ShadowRequest) -> None:
        pair, traffic, predict, original, original_s, nbytes = request
        started = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + self._limits.timeout_s
        difference = None
        try:
            async with asyncio.timeout_at(deadline):
                output = await predict(deadline)
            seconds = time.perf_counter() - started
            if nbytes < _THREAD_BYTES:
                difference = disagreement(output, original)
            else:
                loop = asyncio.get_running_loop()
                difference = await loop.run_in_executor(self._thread, disagreement, output, original)
            outcome = COMPARED if difference is not None else INCOMPARABLE
        except Exception as error:
            seconds = time.perf_counter() - started
            outcome = _code(pair, error)
        finally:
            self.rows -= original.count
            self.nbytes -= nbytes
        self._recorder.shadowed(pair, traffic, ShadowResult(outcome, seconds, original_s, original.count, difference))


def _code(pair: ShadowPair, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded.code
    if not isinstance(error, ServingError):
        log.warning("shadow request failed: model=%s/versions/%s", pair.name, pair.shadow, exc_info=error)
        return ServingError.code
    return error.code
