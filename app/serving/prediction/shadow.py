"""Copies of callers' requests for a model's shadow version, compared with what the callers got.

`app.serving.prediction.service` hands over what it has answered. A copy delays and fails nobody: it runs in a task
of its own, in
an empty context, within bounds, and is not sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import DeadlineExceeded, ServingError
from app.serving.comparison.prediction_diff import Disagreement, disagreement
from app.serving.comparison.statistics import COMPARED, INCOMPARABLE, ShadowPair, ShadowResult
from app.serving.ports import Recorder
from app.serving.releases.traffic import Traffic
from app.serving.rows import Output

log = logging.getLogger(__name__)

TOO_MANY_REQUESTS = "requests"
TOO_MANY_ROWS = "rows"
TOO_MANY_BYTES = "bytes"
"""Causes for which a copy is not sent."""

_THREAD_BYTES = 256 * 1024
"""Answers of this size are compared in a thread: callers shall not wait for that. 60 MB of numbers take 80 ms."""


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """Bounds on the copies under way in one gateway replica, and the seconds that one may take.

    `nbytes` is of their input and of the answers that they are compared with.
    """

    requests: int
    rows: int
    nbytes: int
    timeout_s: float


class Original(NamedTuple):
    """What a caller got, after `seconds`; `nbytes` is what a copy keeps in memory, this answer included."""

    output: Output
    seconds: float
    nbytes: int


class Shadowing:
    """The copies of one gateway replica. Lives on its event loop."""

    def __init__(self, limits: ShadowLimits, recorder: Recorder) -> None:
        self._limits = limits
        self._recorder = recorder
        self._thread = ThreadPoolExecutor(1, "comparison")  # one, so that comparing leaves the other cores to callers
        self._tasks: set[asyncio.Task[None]] = set()
        self.rows = 0
        self.nbytes = 0

    @property
    def requests(self) -> int:
        """Copies under way."""
        return len(self._tasks)

    def send(
        self,
        pair: ShadowPair,
        traffic: Traffic,
        predict: Callable[[float], Awaitable[Output]],
        base: Original,
    ) -> None:
        """Start a copy, or drop it where too much is under way.

        Args:
            predict: answers the request with the shadow's version by a deadline in event loop time.
            base: the caller's answer.
        """
        if len(self._tasks) >= self._limits.requests:
            self._recorder.shadow_dropped(pair, traffic, TOO_MANY_REQUESTS)
            return
        rows = base.output.count
        if self.rows + rows > self._limits.rows:
            self._recorder.shadow_dropped(pair, traffic, TOO_MANY_ROWS)
            return
        if self.nbytes + base.nbytes > self._limits.nbytes:
            self._recorder.shadow_dropped(pair, traffic, TOO_MANY_BYTES)
            return
        self.rows += rows
        self.nbytes += base.nbytes
        # Serve cancels what a request began, found by context variables, when its caller goes away.
        task = asyncio.get_running_loop().create_task(self._run(pair, traffic, predict, base), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        log.warning("a copy for version %s of %s failed", pair.shadow, pair.name, exc_info=error)
        return ServingError.code
    return error.code
