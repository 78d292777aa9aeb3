"""Versions that end the process that holds them: which get a process of their own, and which are refused."""

from __future__ import annotations

from collections.abc import Callable

from app.serving.references import ModelVersion

_MOST_DEATHS = 3
"""Deaths of a version's worker without an answer in between, from which on its calls are refused for a while."""
_REFUSE_S, _MOST_REFUSE_S = 15.0, 600.0
PARDON_S = 600.0
"""Seconds without a death after which a version returns to the process that models share."""


class Crashes:
    """Counts what versions did to their processes. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deaths: dict[ModelVersion, int] = {}
        self._apart: dict[ModelVersion, float] = {}

    def set_apart(self, version: ModelVersion) -> None:
        """Take note that a version has a process of its own from now on, because of what it did."""
        self._apart[version] = self._clock()

    def died(self, version: ModelVersion) -> float:
        """Count a death of the worker of a version. Return for how many seconds to refuse its calls, often 0."""
        if version in self._apart:
            self._apart[version] = self._clock()
        deaths = self._deaths[version] = self._deaths.get(version, 0) + 1
        if deaths < _MOST_DEATHS:
            return 0.0
        return float(min(_REFUSE_S * 2 ** (deaths - _MOST_DEATHS), _MOST_REFUSE_S))

    def answered(self, version: ModelVersion) -> None:
        """Take note of an answer. The request path calls this."""
        if self._deaths:
            self._deaths.pop(version, None)

    def forget(self, version: ModelVersion) -> None:
        """Forget what a version did."""
        self._deaths.pop(version, None)
        self._apart.pop(version, None)

    def pardoned(self) -> list[ModelVersion]:
        """Return the versions that may share a process again, and forget what they did."""
        oldest = self._clock() - PARDON_S
        found = [version for version, since in self._apart.items() if since < oldest]
        for version in found:
            self.forget(version)
        return found
