"""The versions in memory, and which of them are evicted for others."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from app.serving.batching.short_calls import ShortCalls
from app.serving.ports import Model
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)


class Resident(NamedTuple):
    """A loaded version."""

    model: Model
    short_calls: ShortCalls


class Residents:
    """The loaded versions of one process and of its workers, within their budgets.

    The least recently used versions are evicted first, assigned ones last, and versions in use never.

    Args:
        budget_bytes: memory of all versions together.
        max_workers: worker processes of all versions together.
    """

    def __init__(self, budget_bytes: int, max_workers: int) -> None:
        self._budget_bytes = budget_bytes
        self._max_workers = max_workers
        self._residents: OrderedDict[ModelVersion, Resident] = OrderedDict()
        self._in_use: dict[ModelVersion, int] = {}
        self.assigned: frozenset[ModelVersion] = frozenset()
        self.crowded_out: set[ModelVersion] = set()
        """Assigned versions that were evicted, because not all of them fit."""
        self.evictions = 0

    def __iter__(self) -> Iterator[ModelVersion]:
        return iter(self._residents)

    def items(self) -> list[tuple[ModelVersion, Resident]]:
        return list(self._residents.items())

    def get(self, version: ModelVersion) -> Resident | None:
        return self._residents.get(version)

    def use(self, version: ModelVersion) -> Resident | None:
        """Return a version as the most recently used one; None if it is not loaded."""
        resident = self._residents.get(version)
        if resident is not None:
            self._residents.move_to_end(version)
        return resident

    # Not a context manager: one costs more than the rest of a short call to a model.

    def hold(self, version: ModelVersion) -> None:
        """Keep a version, loaded or not yet, from being evicted until as many calls of `let_go`."""
        self._in_use[version] = self._in_use.get(version, 0) + 1

    def let_go(self, version: ModelVersion) -> None:
        left = self._in_use[version] - 1
        if left:
            self._in_use[version] = left
        else:
            del self._in_use[version]

    def add(self, version: ModelVersion, resident: Resident) -> None:
        """Add a version, and evict others until the budgets hold."""
        self._residents[version] = resident
        self.crowded_out.discard(version)
        for other in sorted(self._residents, key=self.assigned.__contains__):  # stable: keeps the order of use
            is_full = self.nbytes > self._budget_bytes
            if not is_full and len(self.workers) <= self._max_workers:
                return
            if other == version or other in self._in_use:
                continue
            if is_full or self._residents[other].model.worker:
                self._evict(other)

    def remove(self, version: ModelVersion) -> bool:
        """Remove a version. Return whether it was there."""
        return self._residents.pop(version, None) is not None

    def remove_worker(self, worker: str) -> list[ModelVersion]:
        """Remove the versions of a worker, and return them."""
        found = [version for version, resident in self._residents.items() if resident.model.worker == worker]
        for version in found:
            del self._residents[version]
        return found

    @property
    def nbytes(self) -> int:
        """Memory of the versions, as measured when they were loaded."""
        return sum(resident.model.spec.nbytes for resident in self._residents.values())

    @property
    def workers(self) -> set[str]:
        """The keys of the worker processes."""
        return {resident.model.worker for resident in self._residents.values()} - {""}

    def _evict(self, version: ModelVersion) -> None:
        self.evictions += 1
        del self._residents[version]
        if version in self.assigned:
            self.crowded_out.add(version)
        log.warning(
            "model evicted: model=%s budget_bytes=%d max_workers=%d", version, self._budget_bytes, self._max_workers
        )
