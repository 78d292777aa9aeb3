"""Decides when an alias answers with the version that the registry names: once that is loaded, warm and compatible.

Part of `app.serving.releases.reconciler`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cachetools import LRUCache

from app.serving.placement.pool_members import PoolMembers
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import FIRST, MOVED, Live
from app.serving.signatures.compatibility import incompatibilities

Specs = Sequence[Mapping[str, Any]] | None


class Contract(NamedTuple):
    """What a version takes: inputs and parameters of its signature, as in `ModelSpec`."""

    inputs: Specs
    params: Specs = None


_COMPARISONS = 1024
"""Comparisons that are remembered: versions do not change, and an alias that is held up asks again and again."""


class Step(NamedTuple):
    """What one alias answers now, what must be in memory for it to move on, and why it does not, if it is held up."""

    live: Live
    warming: tuple[ModelVersion, ...] = ()
    blocked: str | None = None


class _Reason(NamedTuple):
    version: str
    why: str
    back: bool


class _HeldUp(NamedTuple):
    """What speaks for good against a version that an alias should answer; `is_broken` where it cannot be loaded."""

    version: str
    why: str
    is_broken: bool


class Switches:
    """Takes each alias one step further, by what the pools say.

    Args:
        members: what the pools hold.
        wall: seconds since 1970.
    """

    def __init__(self, members: PoolMembers, wall: Callable[[], float]) -> None:
        self._members = members
        self._wall = wall
        self._contracts: dict[ModelVersion, Contract] = {}
        self._last: dict[str, Contract] = {}
        self._compared: LRUCache[tuple[ModelVersion, ModelVersion], list[str]] = LRUCache(_COMPARISONS)
        self._reasons: dict[tuple[str, str], _Reason] = {}
        self._held_up: dict[tuple[str, str], _HeldUp] = {}

    def described(self, version: ModelVersion, contract: Contract) -> None:
        """A pool member has loaded the version, and this is what it takes."""
        last = self._last.get(version.name)
        if last is None or last != contract:
            last = self._last[version.name] = contract
        self._contracts[version] = last  # mostly the same: each version that ever was is kept, so its columns are not

    def forget(self, name: str) -> None:
        """The name means another model now, or none."""
        for version in [version for version in self._contracts if version.name == name]:
            del self._contracts[version]
        self._last.pop(name, None)
        known: dict[tuple[str, str], Any]
        for known in (self._reasons, self._held_up):
            for key in [key for key in known if key[0] == name]:
                del known[key]
        self._compared.clear()

    def explain(self, name: str, alias: str, version: str, why: str, *, back: bool = False) -> None:
        """The next switch of the alias to this version happens for that reason."""
        self._reasons[name, alias] = _Reason(version, why, back)

    def unexplain(self, name: str, alias: str) -> None:
        """Take back what `explain` said: the alias is not moved for that reason."""
        self._reasons.pop((name, alias), None)

    def step(
        self,
        alias: str,
        wanted: ModelVersion,
        current: Live | None,
        *,
        forced: bool,
        asleep: bool,
        unloaded: Container[ModelVersion],
    ) -> Step:
        """What the alias answers from now on.

        Args:
            wanted: what the registry, or a caller, wants it to mean.
            current: what it has answered until now.
            forced: whether differences are accepted for this version.
            asleep: the pool has no replica that could warm anything: the next call does. What has been found to speak
                against a version before still does.
            unloaded: versions that are not to be loaded for a comparison.
        """
        key = wanted.name, alias
        if current is None:
            return Step(self._switch(alias, wanted, None))
        if current.version == wanted.version:
            self._held_up.pop(key, None)
            return Step(current if current.proven or not self._members.holds(wanted) else replace(current, proven=True))
        # What answered before may always come back.
        compare = not forced and wanted.version != current.previous
        if asleep:
            known = self._held_up.get(key)
            if known is not None and known.version == wanted.version and (compare or known.is_broken):
                return Step(current, (), known.why)
            return Step(self._switch(alias, wanted, current))
        before = ModelVersion(wanted.name, current.version)
        follows, blocked = self._verdict(before, wanted, compare=compare, can_load=before not in unloaded)
        if follows:
            return Step(self._switch(alias, wanted, current))
        if blocked is not None:
            self._held_up[key] = _HeldUp(wanted.version, blocked, self._members.state(wanted) == "failed")
        return Step(current, (wanted,) if before in unloaded else (before, wanted), blocked)

    def snapshot(self) -> list[list[Any]]:
        """What holds up switches, as JSON values."""
        return [[*key, *held_up] for key, held_up in self._held_up.items()]

    def restore(self, snapshot: Iterable[Iterable[Any]]) -> None:
        """Take over what `snapshot` wrote. Raises `TypeError` or `ValueError` for what is none."""
        self._held_up = {(name, alias): _HeldUp(*held_up) for name, alias, *held_up in snapshot}

    def _verdict(
        self, before: ModelVersion, after: ModelVersion, *, compare: bool, can_load: bool
    ) -> tuple[bool, str | None]:
        """Whether one version may follow another now; if not, what speaks against it for good, or None to wait."""
        state = self._members.state(after)
        if state != "ready":
            cause = self._members.error(after) or f"{after} cannot be loaded; the log has the cause"
            return False, cause if state == "failed" else None
        if not compare:
            return True, None
        if before not in self._contracts and can_load and self._members.state(before) != "failed":
            return False, None  # it is loaded again, to be compared
        objection = self.objection(before, after)
        return objection is None, objection

    def objection(self, before: ModelVersion | None, after: ModelVersion) -> str | None:
        """Why a version that is loaded should not follow another one; None where nothing is known against it."""
        problem = self._members.problem(after)
        if problem is not None:
            return f"version {after.version} is not switched to: {problem}"
        differences = self.differences(before, after)
        if not differences:
            return None
        assert before is not None
        return f"version {after.version} takes other inputs than version {before.version}: {'; '.join(differences)}"

    def differences(self, before: ModelVersion | None, after: ModelVersion) -> list[str]:
        """What callers of the one would stumble over with the other, a sentence each."""
        if before is None or before not in self._contracts or after not in self._contracts:
            return []
        found: list[str] | None = self._compared.get((before, after))
        if found is None:
            old, new = self._contracts[before], self._contracts[after]
            found = incompatibilities(old.inputs, new.inputs, (old.params, new.params))
            self._compared[before, after] = found
        return found

    def _switch(self, alias: str, wanted: ModelVersion, current: Live | None) -> Live:
        self._held_up.pop((wanted.name, alias), None)
        reason = self._reasons.pop((wanted.name, alias), None)
        if reason is None or reason.version != wanted.version:
            reason = _Reason(wanted.version, MOVED if current is not None else FIRST, back=False)
        proven = self._members.holds(wanted)
        if current is None:
            return Live(wanted.version, None, self._wall(), reason.why, reason.back, proven)
        since = max(self._wall(), current.since)  # the clock may have been put back: of two switches the later counts
        return Live(wanted.version, current.version, since, reason.why, reason.back, proven)
