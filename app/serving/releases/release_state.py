"""Settings and state of the release engine, and what has to be done after each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from app.serving.batching_contract import ROW_WISE_TAG
from app.serving.placement.pool_members import PoolMembers, PoolPlan
from app.serving.placement.replication import CopyLevel
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import AliasState
from app.serving.releases.observed import Observed
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.table import ReleaseTable
from app.serving.releases.tags import NO_TAGS, ModelTags

Aliases: TypeAlias = Mapping[str, AliasState]


class Now(NamedTuple):
    """One time by two clocks: monotonic seconds, and seconds since 1970."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """Settings of the release engine.

    Attributes:
        default_alias: the alias that a bare name means.
        preload: references to keep resident; ``*`` is every model that has the default alias.
        pools: the configured pools.
        serves: returns whether a registered model is served; a snapshot may hold others, of other settings.
        member_ttl_s: seconds of silence after which a pool member counts as gone.
        calm_s: seconds that a version's load must be lower before it has fewer copies.
        keep_previous_s: seconds for which both versions of a switch stay resident.
        grace_s: seconds after a restart for which versions that were warm count as warm, until pools have reported.
        reunion_s: seconds after a restart for which no alias switches: the first pool members that report would count
            as all of them.
    """

    default_alias: str
    preload: Sequence[str]
    pools: Mapping[str, PoolPlan]
    member_ttl_s: float = 25.0
    calm_s: float = 60.0
    keep_previous_s: float = 600.0
    grace_s: float = 15.0
    reunion_s: float = 3.0
    serves: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """Result of one `reconcile`, and the memory of the next.

    Attributes:
        aliases: per model and alias the state; the bare name has the key ``""``.
        grace_until: monotonic time until which versions that were warm before a restart count as warm.
        reunion_until: monotonic time until which no alias switches.
    """

    table: ReleaseTable = field(default_factory=ReleaseTable)
    observed: Observed = field(default_factory=Observed)
    aliases: Mapping[str, Aliases] = field(default_factory=dict)
    tags: Mapping[str, ModelTags] = field(default_factory=dict)
    members: PoolMembers = field(default_factory=PoolMembers)
    levels: Mapping[ModelVersion, CopyLevel] = field(default_factory=dict)
    was_ready: bool = False
    grace_until: float = 0.0
    reunion_until: float = 0.0

    @property
    def models(self) -> Mapping[str, RegisteredModel]:
        """Registered models by name."""
        return self.observed.models or {}

    def alias(self, name: str, alias: str) -> AliasState | None:
        """Return the state of an alias of a model."""
        return self.aliases.get(name, {}).get(alias)

    def live(self, name: str, alias: str) -> str | None:
        """Return the version that an alias answers."""
        state = self.alias(name, alias)
        return state.live if state is not None else None

    def tags_of(self, name: str) -> ModelTags:
        """Return how the tags of a model want it served."""
        return self.tags.get(name, NO_TAGS)


@dataclass(frozen=True, slots=True)
class Effects:
    """What has to be done after a `reconcile`.

    Attributes:
        save: the snapshot is out of date.
        live_tags: per model the tag ``serving.live`` to write.
        problems: per model tags that cannot be followed, where that is new.
    """

    save: bool
    live_tags: Mapping[str, str]
    problems: Sequence[tuple[str, str]]


def problems_of(state: ReleaseState, model: RegisteredModel) -> tuple[str, ...]:
    """Return a sentence for each tag that cannot be followed, and for each version that is not row-wise after all."""
    tags = state.tags_of(model.name)
    missing = (
        f"traffic names alias '{alias}', which the model does not have: its share goes to the default"
        for alias in sorted(tags.traffic.aliases - model.aliases.keys())
    )
    declared = f", although its tag {ROW_WISE_TAG} is true" if tags.batch.row_wise else ", so it is not batched"
    contradicted = (
        f"version {version.version} is not row-wise{declared}: {reason}"
        for version, reason in sorted(state.observed.contradictions.items())
        if version.name == model.name
    )
    return (*tags.problems, *missing, *contradicted)
