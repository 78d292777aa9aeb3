"""Reads the registry for `Releases`: all of it once per poll, one model on demand; and writes to it.

A late, wrong or missing answer changes nothing of what is served. Only a whole answer counts, and a model that the list
lacks is forgotten only when the registry says of that very model that it does not exist. The list names the versions of
aliases and the newest one. About others that are loaded, or were called by number, each poll asks one by one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from cachetools import LRUCache

from app.control.generations import Generations, Key
from app.control.loop import ControlLoop
from app.errors import ModelNotFound, RegistryUnavailable, ServingError
from app.serving.ports import ModelRegistry
from app.serving.references import ModelVersion
from app.serving.releases.observed import Observed
from app.serving.releases.registered_model import RegisteredModel
from app.serving.single_flight import SingleFlight

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0
_PAUSE_PER_READING = 5.0
"""Shortest pause after a poll, in times that it took: reading thousands of models takes seconds."""
_JITTER = 0.2
_CALLED = 256
"""Versions called by number that each poll asks about; the least recently resolved ones are dropped."""
_FAIL_FAST_S = 3.0
"""Seconds after a failure in which questions fail at once: each would hold a thread for as long as the registry."""


class RegistrySync:
    """Keeps the observed models equal to the registry. Not thread-safe; calls of the registry block in threads.

    Args:
        poll_s: seconds between two polls.

    Attributes:
        error: why the registry is not read; None while it answers.
    """

    def __init__(self, registry: ModelRegistry, loop: ControlLoop, poll_s: float) -> None:
        self._registry = registry
        self._loop = loop
        self._poll_s = poll_s
        self._failures = 0
        self._failed_at = 0.0
        self._read_last: float | None = None
        self._generations = Generations(lambda: loop.clock().monotonic)
        self._reading: SingleFlight[str, RegisteredModel] = SingleFlight()
        self._called: LRUCache[ModelVersion, None] = LRUCache(_CALLED)
        self.error: str | None = "not read yet"

    async def poll(self) -> None:
        """Read the registry for ever, less often while it does not answer."""
        while True:
            began = time.monotonic()
            try:
                await self._poll_once()
            except ServingError as error:
                log.warning("registry poll failed, keeping the last known state: %s", error.message)
                await self._loop.observe()
            except Exception:
                log.exception("registry poll failed, keeping the last known state")
                self._failed("the model registry sent a malformed answer; the log has the cause")
                await self._loop.observe()
            await asyncio.sleep(self._pause_s(time.monotonic() - began))

    async def model(self, name: str) -> RegisteredModel:
        """Return one model as the registry has it now; the loop has observed it.

        Raises:
            ModelNotFound, RegistryUnavailable.
        """
        self._fail_fast()
        if name in self._reading:  # its answer may be older than this question
            with suppress(ServingError):
                await self._read_once(name)
            self._fail_fast()
        return await self._read_once(name)

    async def has_version(self, version: ModelVersion) -> bool:
        """Whether the registry has a READY version. Raises `RegistryUnavailable`."""
        self._fail_fast()
        exists = await self._answer(lambda registry: registry.has_version(version))
        if exists:
            self._called[version] = None
        return exists

    async def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version. Raises as `ModelRegistry.set_alias`."""
        await self._write(name, ("alias", alias), version, lambda registry: registry.set_alias(name, alias, version))

    async def set_tag(self, name: str, tag: str, value: str | None) -> None:
        """Set a tag of a model, or delete it, if that changes anything. Raises as `ModelRegistry.set_tag`."""
        known = self._loop.state.models.get(name)
        if known is not None and known.tags.get(tag) == value:
            return

        def order(registry: ModelRegistry) -> None:
            if value is None:
                registry.delete_tag(name, tag)
            else:
                registry.set_tag(name, tag, value)

        await self._write(name, ("tag", tag), value, order)

    async def _write(self, name: str, key: Key, value: str | None, order: Callable[[ModelRegistry], None]) -> None:
        self._fail_fast()
        self._generations.advance(name)
        try:
            await self._answer(order)
        finally:
            self._generations.advance(name)
        model = self._loop.state.models.get(name)
        if model is not None:
            written = self._generations.written(model, key, value)
            await self._loop.observe(lambda observed: observed.read(written))

    async def _poll_once(self) -> None:
        begun = self._generations.begin()
        known = frozenset(self._loop.state.models)
        answer = await self._answer(lambda registry: _all_models(registry, known))
        models = self._loop.state.models
        kept = {name: models[name] for name in self._generations.newer(begun) & models.keys()}
        read = {one.name: self._generations.merge(one, models.get(one.name)) for one in answer if one.name not in kept}
        await self._loop.observe(lambda observed: replace(observed, models=read | kept))
        await self._unload_deleted(read)

    async def _unload_deleted(self, models: Mapping[str, RegisteredModel]) -> None:
        """Unload versions that were deleted in the registry.

        Raises:
            RegistryUnavailable: then no version counts as deleted.
        """
        held = self._loop.state.members.versions | self._called.keys()
        doubtful = sorted(
            version
            for version in held
            if (model := models.get(version.name)) is not None
            and version.version not in (model.latest, *model.aliases.values())
        )
        if not doubtful:
            return
        gone = await self._answer(lambda registry: [one for one in doubtful if not registry.has_version(one)])
        for version in gone:
            log.warning("version deleted in the registry, unloading it: model=%s", version)
            self._called.pop(version, None)
            await self._loop.observe(partial(Observed.unload, version=version))

    async def _read_once(self, name: str) -> RegisteredModel:
        return await self._reading.do(name, lambda: self._read_model(name))

    async def _read_model(self, name: str) -> RegisteredModel:
        while True:
            begun = self._generations.begin()
            answer = await self._answer(lambda registry: registry.model(name))
            if name not in self._generations.newer(begun):
                break
        self._generations.advance(name)
        model = self._generations.merge(answer, self._loop.state.models.get(name))
        await self._loop.observe(lambda observed: observed.read(model))
        return model

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
        self._failed_at = time.monotonic()
        self.error = why
        since = self._read_last or time.time()
        self._loop.note(lambda observed: replace(observed, stale_since=observed.stale_since or since))

    def _answered(self) -> None:
        self._failures = 0
        self._read_last = time.time()
        self.error = None
        self._loop.note(lambda observed: replace(observed, stale_since=None))

    def _fail_fast(self) -> None:
        if self.error is not None and time.monotonic() - self._failed_at < _FAIL_FAST_S and self._failures:
            raise RegistryUnavailable(self.error)

    def _pause_s(self, took_s: float) -> float:
        """Return seconds until the next poll: not the same in all clusters, and longer after each failure."""
        if self._failures:
            pause = min(self._poll_s * 2.0 ** min(self._failures, 10), max(_LONGEST_PAUSE_S, self._poll_s))
        else:
            pause = max(self._poll_s, took_s * _PAUSE_PER_READING)
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret


def _all_models(registry: ModelRegistry, known: frozenset[str]) -> Sequence[RegisteredModel]:
    """Return every model. Raises `RegistryUnavailable` where the list lacks a known model that the registry has."""
    models = registry.models()
    for name in known - {model.name for model in models}:
        try:
            registry.model(name)
        except ModelNotFound:
            continue
        raise RegistryUnavailable(f"the model registry's list lacks models that it has, '{name}' among them")
    return models
