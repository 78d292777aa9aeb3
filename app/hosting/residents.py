"""The versions in memory, and which of them are evicted for others."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from app.hosting.model import Model
from app.serving.batching.short_calls import ShortCalls
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
        self._in_use: Counter[ModelVersion] = Counter()
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

    def touch(self, version: ModelVersion) -> None:
        """Mark a version as the most recently used one, if it is loaded."""
        if version in self._residents:
            self._residents.move_to_end(version)

    @contextmanager
    def using(self, version: ModelVersion) -> Iterator[None]:
        """Keep a version, loaded or not yet, from being evicted."""
        self._in_use[version] += 1
        try:
            yield
        finally:
            self._in_use[version] -= 1
            if not self._in_use[version]:
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
