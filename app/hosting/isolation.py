"""Versions that get a worker of their own because of what they did, or by their model's tag, and their moves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from app.errors import ModelUnavailable, ServingError
from app.hosting.crashes import Crashes
from app.hosting.loads import Loads
from app.hosting.model import Loader
from app.hosting.residents import Resident, Residents
from app.serving.ports import Model
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)


class Isolation:
    """Moves versions between the process of the host and workers. Use it on one event loop.

    A version moves by a second load: other calls find it where it is until that load is done.

    Args:
        end_worker: ends the worker process with a key, with all its calls.
        changed: called after the versions of a dead worker were dropped.
    """

    def __init__(
        self,
        loader: Loader,
        loads: Loads,
        residents: Residents,
        end_worker: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._loads = loads
        self._residents = residents
        self._end_worker = end_worker
        self._changed = changed
        self._crashes = Crashes(time.monotonic)
        self._moves: set[asyncio.Task[None]] = set()
        self._names: frozenset[str] = frozenset()
        self.answered = self._crashes.answered

    async def apart(self, version: ModelVersion) -> Resident:
        """Return a version in a worker, because another process has died of it; load it if needed."""
        self.isolate(version, "its process died during a prediction")
        resident = self._residents.use(version)
        if resident is not None and resident.model.worker:
            return resident
        return await self._loads.load(version)

    def isolate(self, version: ModelVersion, reason: str) -> None:
        """Give a version a worker from its next load on. `reason` is a clause."""
        self._crashes.set_apart(version)
        self._loader.isolate(version, reason)

    def of_models(self, names: frozenset[str]) -> None:
        """Give each version of these models a worker, also those that are loaded."""
        added, self._names = names - self._names, names
        self._loader.isolate_models(names)
        for version, (model, _) in self._residents.items() if added else ():
            if version.name in added and not model.worker:
                self._move(version)

    def pardon(self) -> None:
        """Let versions return that have caused no death for ten minutes."""
        for version in self._crashes.pardoned():
            self._loader.reunite(version)
            self._move(version)

    def forget(self, version: ModelVersion) -> None:
        """Forget what a version did."""
        self._crashes.forget(version)
        self._loader.reunite(version)

    def stuck(self, version: ModelVersion, model: Model) -> None:
        """Give a version whose call does not end a worker, or end the one that it has.

        Args:
            model: the one that was called. If the version was loaded again since, it is left as it is.
        """
        resident = self._residents.get(version)
        if resident is None or resident.model is not model:
            return
        self.isolate(version, "a prediction did not end after its caller had left")
        if resident.model.worker:
            log.warning("a prediction does not end, ending the worker: model=%s", version)
            self._end_worker(resident.model.worker)
            self.worker_died(version, resident)
        else:
            log.warning("a prediction does not end, moving the model to a worker: model=%s", version)
            self._move(version)

    def worker_died(self, version: ModelVersion, resident: Resident) -> None:
        """Drop the versions of a worker that died during a call, so that the next call of each loads it again.

        If workers keep dying of a version, its calls are refused for a while.
        """
        if self._residents.get(version) is not resident:  # loaded again meanwhile
            return
        refuse_s = self._crashes.died(version)
        if refuse_s:
            error = ModelUnavailable(
                f"{version} is refused for {refuse_s:g} s, because its process died several times in a row; "
                f"the log has the causes. `ml-serve load {version}` tries again at once",
                {"model": version.name},
            )
            self._loads.refuse(version, error, refuse_s)
        for dead in self._residents.remove_worker(resident.model.worker):
            log.warning("the worker of a model died: model=%s", dead)
        self._changed()

    def close(self) -> None:
        """Cancel the moves in progress."""
        for move in self._moves:
            move.cancel()

    def _move(self, version: ModelVersion) -> None:
        if version not in self._residents:
            return
        move = asyncio.get_running_loop().create_task(self._moved(version))
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    async def _moved(self, version: ModelVersion) -> None:
        try:
            await self._loads.load(version)
        except ServingError as error:
            log.warning("move to another process failed: model=%s error=%s", version, error.message)
