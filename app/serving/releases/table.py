"""The release table: what is served, as one immutable value that gateways and pools follow.

`reconcile` builds it. A gateway resolves references from its last table, without a call to anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.serving.batching.limits import NO_OVERRIDES, BatchOverrides
from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Release:
    """One registered model: the live version of the bare name (`default`) and of each alias, and the pool."""

    name: str
    default: str | None
    aliases: Mapping[str, str]
    pool: str
    created: int = 0
    """When the model was registered, in milliseconds; a name that is registered again is another model."""
    batch: BatchOverrides = NO_OVERRIDES
    traffic: Traffic | None = None
    """Traffic split and shadow in force; None where all calls to the bare name go to `default`."""
    blocked: Mapping[str, str] = field(default_factory=dict)
    """Per alias why its desired version does not answer."""
    isolated: bool = False
    """Whether each version gets a process of its own."""


@dataclass(frozen=True, slots=True)
class Share:
    """Versions that one pool member should hold: all that are `resident`, and those that are `hot` if they fit."""

    resident: frozenset[ModelVersion] = frozenset()
    hot: frozenset[ModelVersion] = frozenset()


@dataclass(frozen=True, slots=True)
class ReleaseTable:
    """What gateways and pools need to know, at one epoch of one term.

    Attributes:
        term: one life of `Releases`.
        epoch: number of the table within the term.
        releases: registered models by name.
        resident: per pool the versions that it keeps in memory.
        members: per pool the members that are alive.
        copies: how many members should hold a resident or a busy version.
        unloads, retries: how often callers asked to unload a version, or to load it again after a failure. Pools act
            when a number changes.
        contradictions: per version how a gateway replica saw that it is not row-wise.
        suspects: versions during whose load a pool member died.
        ready: whether every live resident version is loaded, or has failed to load.
        cold_pools: pools that may scale to zero; only predictions call them, since any call wakes them.
        stale_since: since when the registry has not been read, in seconds since 1970; None while it answers.
    """

    term: int = 0
    epoch: int = 0
    releases: Mapping[str, Release] = field(default_factory=dict)
    resident: Mapping[str, tuple[ModelVersion, ...]] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copies: Mapping[ModelVersion, int] = field(default_factory=dict)
    unloads: Mapping[ModelVersion, int] = field(default_factory=dict)
    retries: Mapping[ModelVersion, int] = field(default_factory=dict)
    contradictions: Mapping[ModelVersion, str] = field(default_factory=dict)
    suspects: frozenset[ModelVersion] = frozenset()
    ready: bool = False
    cold_pools: frozenset[str] = frozenset()
    stale_since: float | None = None

    def resolve(self, ref: ModelRef) -> ModelVersion | None:
        """Return the version that a reference means, or None where the table does not hold it."""
        if ref.version is not None:
            return None
        release, alias = self.releases.get(ref.name), ref.alias
        if release is None and alias is not None:  # the name may contain '@'
            release, alias = self.releases.get(str(ref)), None
        if release is None:
            return None
        version = release.default if alias is None else release.aliases.get(alias)
        return ModelVersion(release.name, version) if version is not None else None

    def renewed(self, before: ReleaseTable) -> set[str]:
        """Return the names of models that were deleted or registered again since the table before."""
        return {
            name
            for name, release in before.releases.items()
            if name not in self.releases or self.releases[name].created != release.created
        }

    def orders(self) -> Counter[ModelVersion]:
        """Return per version how often pool members were told to drop it or to try it again."""
        return Counter(self.unloads) + Counter(self.retries)

    def pool_of(self, name: str) -> str:
        release = self.releases.get(name)
        return release.pool if release is not None else "default"

    def copies_of(self, version: ModelVersion) -> int:
        """Return how many members share the calls for a version; one where a call has loaded it."""
        return self.copies.get(version, 1)

    def share(self, pool: str, member: str) -> Share:
        """Return what a member should hold; an unknown member counts itself in."""
        members = frozenset([member, *self.members.get(pool, ())])

        def held(versions: Iterable[ModelVersion]) -> frozenset[ModelVersion]:
            return frozenset(one for one in versions if member in ranked(members, one)[: self.copies_of(one)])

        hot = (version for version in self.copies if self.pool_of(version.name) == pool)
        return Share(held(self.resident.get(pool, ())), held(hot))


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Status of one registered model for people.

    Attributes:
        default: live version of the bare name.
        aliases: live version per alias.
        desired: version per alias as the registry names it; different while it warms up, or when it is blocked.
        versions: per version its state, how many replicas hold it, its bytes, its batching contract, the last error.
        problems: a sentence for each tag that is ignored because it cannot be followed, and for each version whose
            answers contradict its batching contract.
        live: per alias ``version``, ``previous`` (or null), ``since`` (ISO 8601) and ``why``.
        blocked: per alias why its desired version does not answer.
        traffic: percent per alias of the calls to the bare name, as the tags ask for.
        shadow: the alias that gets a copy of each call.
    """

    name: str
    default: str | None
    aliases: Mapping[str, str]
    desired: Mapping[str, str]
    pool: str
    versions: Mapping[str, Mapping[str, Any]]
    problems: Sequence[str] = ()
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    shadow: str | None = None

    def can_answer(self, version: str | None) -> bool:
        """Return whether a call of an existing version will be answered: it is loaded, or a call loads it."""
        facts = self.versions.get(version or "")
        return version is not None and (facts is None or facts["state"] != "failed")


class Switch(NamedTuple):
    """Result of a promote or a rollback: `alias` answers `version`; before that, `previous`.

    `changed` is False where the alias answered `version` already.
    """

    version: ModelVersion
    alias: str
    previous: str | None
    changed: bool
