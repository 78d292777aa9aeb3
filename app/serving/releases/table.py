"""What is served, as one immutable value that gateways and pools are told.

`Releases` (in `app.deployments`) builds it with `app.serving.releases.reconciler`; gateways answer every request
from the
last table they have, without asking anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.serving.batching.limits import NO_OVERRIDES, BatchOverrides
from app.serving.placement.rendezvous import Ring
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Release:
    """One registered model: what its references mean now and which pool hosts it.

    `default` is what the bare name answers, `aliases` what each alias answers. Both follow the registry, but only after
    the new version is warm.
    """

    name: str
    default: str | None
    aliases: Mapping[str, str]
    pool: str
    created: int = 0
    """When the model was registered, in milliseconds: a name that is registered anew is another model."""
    batch: BatchOverrides = NO_OVERRIDES
    """How its tags want it batched."""
    traffic: Traffic | None = None
    """How calls to the bare name are divided and copied; None where all go to `default` alone."""
    blocked: Mapping[str, str] = field(default_factory=dict)
    """Per alias why the version that the registry names does not answer, a sentence each."""


@dataclass(frozen=True, slots=True)
class Share:
    """Versions that one pool member should hold: it must have what is `resident`, and has what is `hot` if it can."""

    resident: frozenset[ModelVersion] = frozenset()
    hot: frozenset[ModelVersion] = frozenset()


@dataclass(frozen=True, slots=True)
class ReleaseTable:
    """Everything that gateways and pools need to know, at one `epoch` of one `term`.

    A term is one life of `Releases`; epochs count the tables within it. `resident` lists the versions that a pool keeps
    loaded and warm, on as many of its members as `copies` says.
    """

    term: int = 0
    epoch: int = 0
    releases: Mapping[str, Release] = field(default_factory=dict)
    resident: Mapping[str, tuple[ModelVersion, ...]] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Per pool the members that are known to live."""

    copies: Mapping[ModelVersion, int] = field(default_factory=dict)
    """How many members shall hold a version: of what is resident, and of what makes much work."""
    unloads: Mapping[ModelVersion, int] = field(default_factory=dict)
    """How often a caller has asked for a version to leave memory: pools do so when the number changes."""

    retries: Mapping[ModelVersion, int] = field(default_factory=dict)
    """How often a caller has asked for a version again after it had failed: pools then try again at once."""
    ready: bool = False
    """Whether every version that answers and should be resident is loaded, or is known to have failed."""

    cold_pools: frozenset[str] = frozenset()
    """Pools that may be at zero replicas: any call would wake them, so they are called for predictions alone."""

    stale_since: float | None = None
    """Since when the registry has not been read, in seconds since 1970; None while it is."""

    def resolve(self, ref: ModelRef) -> ModelVersion | None:
        """The version that `ref` means, or None where the table does not say."""
        if ref.version is not None:
            return None
        release = self.releases.get(ref.name)
        if release is None:
            return None
        version = release.default if ref.alias is None else release.aliases.get(ref.alias)
        return ModelVersion(ref.name, version) if version is not None else None

    def renewed(self, before: ReleaseTable) -> set[str]:
        """Names that mean another model than in the table before, or none any more."""
        return {
            name
            for name, release in before.releases.items()
            if name not in self.releases or self.releases[name].created != release.created
        }

    def pool_of(self, name: str) -> str:
        release = self.releases.get(name)
        return release.pool if release is not None else "default"

    def copies_of(self, version: ModelVersion) -> int:
        """How many members share the calls for a version. What is loaded for a call stays on one."""
        return self.copies.get(version, 1)

    def share(self, pool: str, member: str) -> Share:
        """What a member should hold, by the ring of its pool; it counts itself in when it is not known yet."""
        ring = Ring({member, *self.members.get(pool, ())})
        resident = self.resident.get(pool, ())
        hot = (version for version in self.copies if self.pool_of(version.name) == pool)
        return Share(
            frozenset(version for version in resident if member in ring.holders(version, self.copies_of(version))),
            frozenset(version for version in hot if member in ring.holders(version, self.copies_of(version))),
        )


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One registered model for people: what is registered, what is served, and what is loaded where."""

    name: str
    default: str | None
    aliases: Mapping[str, str]
    desired: Mapping[str, str]
    """Aliases as the registry has them; they differ from `aliases` while a version warms up or when it failed to."""
    pool: str
    versions: Mapping[str, Mapping[str, Any]]
    """Per version its state, how many replicas hold it, bytes, and the last error."""
    problems: Sequence[str] = ()
    """Tags that cannot be followed and are ignored, a sentence each."""
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per alias ``version``, ``previous`` (what it answered before, or null), ``since`` (ISO 8601) and ``why``."""
    blocked: Mapping[str, str] = field(default_factory=dict)
    """Per alias why the version that the registry names does not answer, a sentence each."""
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Percent per alias of the calls to the bare name, as the tags ask for."""
    shadow: str | None = None
    """The alias that gets a copy of each call."""


class Switch(NamedTuple):
    """What a promote or a rollback has come to: `alias` answers `version`, and `previous` before.

    `changed` is False where it was so already.
    """

    version: ModelVersion
    alias: str
    previous: str | None
    changed: bool
