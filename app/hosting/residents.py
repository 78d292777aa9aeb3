"""The versions in memory, and which of them are evicted for others.

A version is worth its recent uses times the cost of loading it again, per byte. Figures: ``docs/adr/0027-reloads.md``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

from app.serving.batching.short_calls import ShortCalls
from app.serving.ports import Model
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)


_HALF_LIFE = 1000
"""Uses of any version after which one use counts half."""

_MOST_COUNTED = 4096
"""Versions whose uses are counted, whether they are in memory or not."""

_LOAD_S, _READ_BYTES_PER_S, _WORKER_S = 0.01, 500e6, 5.0
"""Estimate of a reload: fixed cost, bytes read and unpickled per second, start of a worker process. The first load
says little about the next one, because it imports libraries and proves the batching contract."""


class Resident(NamedTuple):
    """A loaded version."""

    model: Model
    short_calls: ShortCalls


class Residents:
    """The loaded versions of one process and of its workers, within their budgets.

    The versions of the least worth are evicted first, assigned ones last, and versions in use never.

    Args:
        budget_bytes: memory of all versions together.
        max_workers: worker processes of all versions together.
    """

    def __init__(self, budget_bytes: int, max_workers: int) -> None:
        self._budget_bytes = budget_bytes
        self._max_workers = max_workers
        self._residents: dict[ModelVersion, Resident] = {}
        self._uses: dict[ModelVersion, tuple[float, int]] = {}
        self._clock = 0
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
        """Return a version and count the use; None if it is not loaded."""
        self._clock += 1
        self._uses[version] = (self._recent_uses(version) + 1, self._clock)
        if len(self._uses) > _MOST_COUNTED:
            for other in sorted(self._uses, key=self._recent_uses)[: _MOST_COUNTED // 2]:
                del self._uses[other]
        return self._residents.get(version)

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
        if self._fits():
            return
        for other in sorted(self._residents, key=self._worth):
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

    def _fits(self) -> bool:
        return self.nbytes <= self._budget_bytes and len(self.workers) <= self._max_workers

    def _recent_uses(self, version: ModelVersion) -> float:
        uses, at = self._uses.get(version, (0.0, 0))
        return uses * math.exp2((at - self._clock) / _HALF_LIFE)

    def _worth(self, version: ModelVersion) -> tuple[bool, float]:
        model = self._residents[version].model
        nbytes = max(model.spec.nbytes, 1)
        reload_s = _LOAD_S + nbytes / _READ_BYTES_PER_S + (_WORKER_S if model.worker else 0)
        return version in self.assigned, self._recent_uses(version) * reload_s / nbytes

    def _evict(self, version: ModelVersion) -> None:
        self.evictions += 1
        del self._residents[version]
        level = logging.DEBUG  # a pool with more models than room evicts many times per second
        if version in self.assigned:
            self.crowded_out.add(version)
            level = logging.WARNING
        log.log(
            level,
            "model evicted: model=%s budget_bytes=%d max_workers=%d",
            version,
            self._budget_bytes,
            self._max_workers,
        )
