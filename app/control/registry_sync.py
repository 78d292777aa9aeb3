"""Reads the registry for `Releases`: all of it once per poll, one model where that is asked for, and writes to it.

Whatever the registry answers, late, wrongly or not at all, changes nothing of what is served: only a whole answer is
entered in the book, and a model that an answer lacks is forgotten only when the registry says so of that very model.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from app.errors import ModelNotFound, RegistryUnavailable, ServingError
from app.serving.ports import ModelRegistry
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.registered_model import RegisteredModel
from app.serving.single_flight import SingleFlight

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0
_PAUSE_PER_READING = 5.0
"""Times that a reading took which the pause after it lasts at least: that of thousands of models takes seconds."""
_JITTER = 0.2
_FAIL_FAST_S = 3.0
"""Seconds for which a registry that did not answer is not asked again: each question would hold a thread as long."""


class RegistryReader:
    """Not thread-safe: it lives on one event loop, and blocks in threads.

    Args:
        registry: what is read.
        book: what is kept up to date.
        changed: awaited after each change of the book.
        poll_s: seconds between two readings.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        book: ReleaseBook,
        changed: Callable[[], Awaitable[None]],
        poll_s: float,
    ) -> None:
        self._registry = registry
        self._book = book
        self._changed = changed
        self._poll_s = poll_s
        self._failures = 0
        self._asked_last = 0.0
        self._read_last: float | None = None
        self._writing: Counter[str] = Counter()
        self._touched: set[str] = set()
        """Models that were read or written by themselves since the reading of all began: it may be older."""
        self._overtaken: set[str] = set()
        """Models that were written since the question about them that is under way: its answer may be older."""
        self._models: SingleFlight[str, RegisteredModel] = SingleFlight()
        self.error: str | None = "not read yet"
        """Why the registry is not read; None while it is."""

    async def poll(self) -> None:
        """Read the registry for ever, less often while it does not answer."""
        while True:
            began = time.monotonic()
            try:
                await self._poll_once()
            except ServingError as error:
                log.warning("the registry is not read; what is known stays in force: %s", error.message)
            except Exception:
                log.exception("the registry is not read; what is known stays in force")
                self._failed("what the model registry answers is not understood; the log has the cause")
            took_s = time.monotonic() - began
            await self._changed()
            await asyncio.sleep(self._pause_s(took_s))

    async def model(self, name: str) -> RegisteredModel:
        """One model as the registry has it now, entered in the book, and with what was written since its answer.

        Raises:
            ModelNotFound, RegistryUnavailable.
        """
        self._fail_fast()
        if name in self._models:  # what is being asked may be answered by what was so before this question
            with suppress(ServingError):
                await self._ask_about(name)
            self._fail_fast()
        return await self._ask_about(name)

    async def ask(self, question: Callable[[ModelRegistry], T]) -> T:
        """Any other answer of the registry. Raises what `question` raises."""
        self._fail_fast()
        return await self._answer(question)

    async def write(self, name: str, order: Callable[[ModelRegistry], None]) -> None:
        """Write to the registry what is of one model. Raises what `order` raises.

        The caller enters in the book what was written: an answer that is under way may be older, and is left aside.
        """
        self._fail_fast()
        self._writing[name] += 1
        try:
            await self._answer(order)
        finally:
            self._writing -= Counter([name])
            self._touched.add(name)
            if name in self._models:
                self._overtaken.add(name)

    async def _ask_about(self, name: str) -> RegisteredModel:
        return await self._models.do(name, lambda: self._read_model(name))

    async def _poll_once(self) -> None:
        self._touched.clear()
        known = frozenset(self._book.models)
        models = {model.name: model for model in await self._answer(lambda registry: _all_models(registry, known))}
        newer = self._touched | self._writing.keys()
        models |= {name: self._book.models[name] for name in newer & self._book.models.keys()}
        self._book.registry_read(list(models.values()))

    async def _read_model(self, name: str) -> RegisteredModel:
        while True:
            self._overtaken.discard(name)
            model = await self._answer(lambda registry: registry.model(name))
            if name not in self._overtaken:
                break
        self._touched.add(name)
        self._book.model_read(model)
        known = self._book.models[name]
        await self._changed()
        return known

    async def _answer(self, question: Callable[[ModelRegistry], T]) -> T:
        """Ask in a thread; remember whether the registry answers."""
        try:
            result = await asyncio.to_thread(question, self._registry)
        except RegistryUnavailable as error:
            self._failed(error.message)
            raise
        except ServingError:  # an answer too
            self._answered()
            raise
        self._answered()
        return result

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._asked_last = time.monotonic()
        self.error = why
        if self._book.stale_since is None:
            self._book.stale_since = self._read_last or time.time()

    def _answered(self) -> None:
        self._failures = 0
        self._read_last = time.time()
        self._book.stale_since = None
        self.error = None

    def _fail_fast(self) -> None:
        if self.error is not None and time.monotonic() - self._asked_last < _FAIL_FAST_S and self._failures:
            raise RegistryUnavailable(self.error)

    def _pause_s(self, took_s: float) -> float:
        """Seconds until the next reading: not all clusters at once, and ever longer while there is no answer."""
        pause = max(self._poll_s, took_s * _PAUSE_PER_READING) if not self._failures else self._backed_off_s()
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret

    def _backed_off_s(self) -> float:
        return min(self._poll_s * 2.0 ** min(self._failures, 10), max(_LONGEST_PAUSE_S, self._poll_s))


def _all_models(registry: ModelRegistry, known: frozenset[str]) -> Sequence[RegisteredModel]:
    """Every model. Raises `RegistryUnavailable` where the list lacks one of the `known` that the registry still has."""
    models = registry.models()
    for name in known - {model.name for model in models}:
        try:
            registry.model(name)
        except ModelNotFound:
            continue
        raise RegistryUnavailable(f"the model registry's list lacks models that it has, '{name}' among them")
    return models
