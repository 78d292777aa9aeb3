"""What callers asked for: versions to be loaded, to be kept for a while, to leave.

Part of `app.serving.releases.reconciler`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from app.serving.references import ModelVersion


class Wishes:
    """Not thread-safe.

    Attributes:
        pinned: versions that callers loaded.
        wanted: versions that are needed for as long as something is under way, and how often.
        let_go: versions that callers unloaded.
        chosen: per model the version that was loaded by name where no default alias was set.
        unloads, retries: how often a version was asked to leave, and to be tried again after it had failed.
    """

    def __init__(self) -> None:
        self.pinned: set[ModelVersion] = set()
        self.wanted: dict[ModelVersion, int] = {}
        self.let_go: set[ModelVersion] = set()
        self.chosen: dict[str, str] = {}
        self.unloads: dict[ModelVersion, int] = {}
        self.retries: dict[ModelVersion, int] = {}

    @property
    def resident(self) -> set[ModelVersion]:
        """What callers want in memory."""
        return self.pinned | self.wanted.keys()

    def pin(self, version: ModelVersion, *, choose: bool) -> None:
        """Have a version resident; `choose`: the bare name shall mean it."""
        self.pinned.add(version)
        self.let_go.discard(version)
        if choose:
            self.chosen[version.name] = version.version

    def unpin(self, version: ModelVersion) -> None:
        """Take a `pin` back: the version is resident no longer for its own sake, but is not told to leave either."""
        self.pinned.discard(version)
        if self.chosen.get(version.name) == version.version:
            del self.chosen[version.name]

    def want(self, version: ModelVersion) -> None:
        """Have a version in memory until `no_longer_want` is called as often."""
        self.wanted[version] = self.wanted.get(version, 0) + 1
        self.let_go.discard(version)

    def no_longer_want(self, version: ModelVersion) -> None:
        """Take one `want` back."""
        self.wanted[version] -= 1
        if not self.wanted[version]:
            del self.wanted[version]

    def leave(self, version: ModelVersion) -> None:
        """Have a version leave memory."""
        self.unpin(version)
        self.let_go.add(version)
        self.unloads[version] = self.unloads.get(version, 0) + 1

    def retry(self, version: ModelVersion) -> None:
        """Have a version tried again that has failed."""
        self.retries[version] = self.retries.get(version, 0) + 1

    def keep_only(self, names: Container[str]) -> None:
        """Forget what was asked for other models."""
        asked = {*self.pinned, *self.let_go, *self.retries, *self.unloads}
        for name in {version.name for version in asked} | self.chosen.keys():
            if name not in names:
                self.forget(name)

    def forget(self, name: str) -> None:
        """The name means another model now, or none."""
        for versions in (self.pinned, self.let_go):
            versions.difference_update({version for version in versions if version.name == name})
        for counts in (self.retries, self.unloads):
            for version in [version for version in counts if version.name == name]:
                del counts[version]
        self.chosen.pop(name, None)

    def snapshot(self) -> dict[str, Any]:
        """What outlives a restart, as JSON values."""
        pinned, let_go = ([list(version) for version in sorted(versions)] for versions in (self.pinned, self.let_go))
        return {"chosen": self.chosen, "pinned": pinned, "let_go": let_go}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take over what `snapshot` wrote."""
        self.chosen = dict(snapshot.get("chosen", {}))
        self.pinned = {ModelVersion(*pair) for pair in snapshot.get("pinned", [])}
        self.let_go = {ModelVersion(*pair) for pair in snapshot.get("let_go", [])}
