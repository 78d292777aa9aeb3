"""What callers asked for: versions to load, to keep for a while, or to unload."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from app.serving.references import ModelVersion


@dataclass(frozen=True, slots=True)
class LoadRequests:
    """Requests of callers.

    Attributes:
        pinned: versions that callers loaded.
        wanted: versions that operations under way need, and how many of these.
        unloaded: versions that callers unloaded.
        unloads, retries: how often a version was asked to leave, and to be tried again after a failure.
    """

    pinned: frozenset[ModelVersion] = frozenset()
    wanted: Mapping[ModelVersion, int] = field(default_factory=dict)
    unloaded: frozenset[ModelVersion] = frozenset()
    unloads: Mapping[ModelVersion, int] = field(default_factory=dict)
    retries: Mapping[ModelVersion, int] = field(default_factory=dict)

    @property
    def resident(self) -> Set[ModelVersion]:
        """Versions that callers want in memory."""
        return self.pinned | self.wanted.keys()

    def orders(self, version: ModelVersion) -> int:
        """Return how often pool members were told to drop a version or to try it again."""
        return self.unloads.get(version, 0) + self.retries.get(version, 0)

    def pin(self, version: ModelVersion) -> LoadRequests:
        """Keep a version resident."""
        return replace(self, pinned=self.pinned | {version}, unloaded=self.unloaded - {version})

    def unpin(self, version: ModelVersion) -> LoadRequests:
        """Undo `pin`; members may keep the version."""
        return replace(self, pinned=self.pinned - {version})

    def want(self, version: ModelVersion) -> LoadRequests:
        """Keep a version in memory until `unwant` is called as often."""
        return replace(self, wanted=_plus(self.wanted, version, 1), unloaded=self.unloaded - {version})

    def unwant(self, version: ModelVersion) -> LoadRequests:
        """Undo one `want`."""
        return replace(self, wanted=_plus(self.wanted, version, -1))

    def unload(self, version: ModelVersion) -> LoadRequests:
        """Have all members drop a version."""
        unpinned = self.unpin(version)
        return replace(unpinned, unloaded=self.unloaded | {version}, unloads=_plus(self.unloads, version, 1))

    def retry(self, version: ModelVersion) -> LoadRequests:
        """Have members load a version again that they failed to load."""
        return replace(self, retries=_plus(self.retries, version, 1))

    def of(self, names: Set[str]) -> LoadRequests:
        """Return the requests for these models; operations under way keep theirs until they end."""
        return LoadRequests(
            frozenset(version for version in self.pinned if version.name in names),
            self.wanted,
            frozenset(version for version in self.unloaded if version.name in names),
            {version: count for version, count in self.unloads.items() if version.name in names},
            {version: count for version, count in self.retries.items() if version.name in names},
        )


def _plus(counts: Mapping[ModelVersion, int], version: ModelVersion, change: int) -> dict[ModelVersion, int]:
    changed = {**counts, version: counts.get(version, 0) + change}
    return {known: count for known, count in changed.items() if count}
