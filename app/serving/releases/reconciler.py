"""Works out what should be served, from what the registry says, what callers asked for and what pools report.

Pure bookkeeping: `app.deployments.releases` feeds it and publishes the `ReleaseTable` it makes. The rules:

- an alias in the registry is the *desired* version; what answers (*live*) follows once that version is warm on every
  member of its pool that should hold it, and stays where it is when something speaks against it
  (`app.serving.releases.rollout`);
- the bare name follows the default alias, else a version that a caller loaded by name, else the newest READY one;
  its calls are divided among aliases, and copied, by `app.serving.releases.traffic`, as far as their versions are warm;
- resident are the default versions named by the `preload` setting, versions that callers loaded, what an alias is about
  to switch to, what it answered until lately, and all that takes part in a split;
- each version has as many copies as its load needs, what is resident no fewer than its pool's settings say; which
  members hold them follows from the ring.

What the registry holds is kept by `app.serving.releases.catalog`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.serving.placement.pool_members import PoolMembers, PoolPlan
from app.serving.placement.states import State
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE, Live, LiveVersions
from app.serving.releases.catalog import Catalogue
from app.serving.releases.load_requests import Wishes
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.retention import Residency
from app.serving.releases.rollout import Switches
from app.serving.releases.table import Release, ReleaseTable
from app.serving.releases.tags import POOL_TAG, ModelTags
from app.serving.releases.traffic import NO_TRAFFIC, Traffic


@dataclass(slots=True)
class _Followed:
    """What following one model's aliases has come to."""

    live: dict[str, Live] = field(default_factory=dict)
    warming: set[ModelVersion] = field(default_factory=set)
    blocked: dict[str, str] = field(default_factory=dict)


class ReleaseBook:
    """The state behind the release table. Not thread-safe: it lives on one event loop.

    Args:
        default_alias: the alias that a bare name means.
        preload: references to keep resident; ``*`` is every model that has the default alias.
        pools: the configured pools.
        member_ttl_s: seconds after which a pool member that is not heard of counts as gone.
        calm_s: seconds for which a version's load must be lower before it has fewer copies.
        keep_previous_s: seconds for which the version before a switch stays resident.
        grace_s: seconds after a restart for which what was warm before counts as warm, until the pools have reported.
        term: tells this life of `Releases` from earlier ones.
        wall: seconds since 1970.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        default_alias: str,
        preload: Sequence[str],
        pools: Mapping[str, PoolPlan],
        member_ttl_s: float = 25.0,
        calm_s: float = 60.0,
        keep_previous_s: float = 600.0,
        grace_s: float = 15.0,
        term: int = 0,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.default_alias = default_alias
        self._residency = Residency(preload, default_alias=default_alias, keep_previous_s=keep_previous_s, wall=wall)
        self._pools = dict(pools)
        self._grace_s = grace_s
        self._grace_until: float | None = None
        self._is_restored = False
        self._in_grace = False
        self._wall = wall
        self._clock = clock
        self._catalogue = Catalogue(clock, forget=self._forget, entered=self._adopt)
        self.live = LiveVersions()
        self._followed: dict[str, _Followed] = {}
        self._adopted: set[str] = set()
        self._wishes = Wishes()
        self._was_ready = False
        self.members = PoolMembers(self._pools, self._pool_of, ttl_s=member_ttl_s, calm_s=calm_s)
        self.switches = Switches(self.members, wall)
        self.stale_since: float | None = None
        """Since when, in seconds since 1970, the registry has not been read; None while it is."""
        self.table = ReleaseTable(term)

    # What comes in

    def registry_read(self, models: Sequence[RegisteredModel]) -> None:
        """The registry as it is now, whole. A model that is gone is forgotten."""
        self._catalogue.all_read(models)
        self._wishes.keep_only(self.models)

    def model_read(self, model: RegisteredModel) -> None:
        """One model as the registry has it now."""
        self._catalogue.one_read(model)

    def written(self, name: str, *, aliases: Mapping[str, str] | None = None, tags: Mapping[str, str | None]) -> None:
        """The registry has taken these aliases and tags of a model; a tag that is None was deleted."""
        self._catalogue.written(name, aliases or {}, tags)

    def pin(self, version: ModelVersion) -> None:
        """A caller asked for this version to be resident; where no default alias is set it becomes the default."""
        self._try_again(version)
        model = self.models.get(version.name)
        self._wishes.pin(version, choose=model is None or self.default_alias not in model.aliases)

    def unpin(self, version: ModelVersion) -> None:
        """Take a `pin` back: the version is resident no longer for its own sake, but is not told to leave either."""
        self._wishes.unpin(version)

    def want(self, version: ModelVersion) -> None:
        """Have the version in memory until `no_longer_want` is called as often."""
        self._try_again(version)
        self._wishes.want(version)

    def no_longer_want(self, version: ModelVersion) -> None:
        """Take one `want` back."""
        self._wishes.no_longer_want(version)

    def let_go(self, version: ModelVersion) -> None:
        """A caller asked for this version to leave memory. It comes back when it is called or loaded again."""
        self._wishes.leave(version)
        self.members.released(version)

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take over what `snapshot` wrote before a restart, in this release of the platform or in another one.

        Raises `AttributeError`, `KeyError`, `TypeError` or `ValueError` where it is not understood, and then leaves the
        book as it was.
        """
        live, wishes = LiveVersions(), Wishes()
        live.restore(snapshot.get("live", {}))
        wishes.restore(snapshot)
        catalogue = Catalogue(self._clock, forget=self._forget, entered=self._adopt)
        catalogue.restore(snapshot.get("models", []))
        self.switches.restore(snapshot.get("held_up", []))
        self.live, self._wishes, self._catalogue = live, wishes, catalogue
        self._is_restored = True
        self.stale_since = snapshot.get("stale_since") or self._wall()

    # What comes out

    def snapshot(self) -> dict[str, Any]:
        """Everything that must survive a restart, as JSON values; no replica's state is among it."""
        return {
            "live": self.live.snapshot(),
            "held_up": self.switches.snapshot(),
            **self._wishes.snapshot(),
            "stale_since": self.stale_since,
            "models": self._catalogue.snapshot(),
        }

    def settle(self, now: float) -> bool:
        """Work out the table anew; True when it differs from the last one, and then has a higher epoch."""
        if self._grace_until is None:
            self._grace_until = now + self._grace_s
        self._in_grace = self._is_restored and now < self._grace_until
        self.members.settle(now)
        self.live.keep_only(self.models)
        self._followed = {model.name: self._follow(model) for model in self.models.values()}
        moving = {version for followed in self._followed.values() for version in followed.warming}
        releases = {model.name: self._release(model) for model in self.models.values()}
        self._wishes.let_go -= moving  # what is to answer is asked for again
        resident = self._resident(moving)
        warm = [versions for pool, versions in resident.items() if not self._pools[pool].cold]
        # A switch under way holds up readiness only at the start, when what answers until then may be long out of date.
        awaited = {version for versions in warm for version in versions} - (moving if self._was_ready else set())
        ready = self.has_registry and all(self.state(version) in ("ready", "failed") for version in awaited)
        self._was_ready |= ready
        table = ReleaseTable(
            self.table.term,
            self.table.epoch,
            releases,
            resident,
            self.members.names,
            self._copies(resident),
            dict(self._wishes.unloads),
            dict(self._wishes.retries),
            ready,
            frozenset(pool for pool, plan in self._pools.items() if plan.cold),
            self.stale_since,
        )
        if table == self.table:
            return False
        self.table = replace(table, epoch=self.table.epoch + 1)
        return True

    @property
    def models(self) -> Mapping[str, RegisteredModel]:
        """What the registry holds, by name."""
        return self._catalogue.models

    @property
    def has_registry(self) -> bool:
        """Whether it is known what the registry holds, from itself or from a snapshot."""
        return self._catalogue.is_known

    def blocked(self, name: str) -> Mapping[str, str]:
        """Per alias of a model why the version that the registry names does not answer."""
        followed = self._followed.get(name)
        return followed.blocked if followed is not None else {}

    def desired(self, model: RegisteredModel) -> dict[str, str]:
        """Alias to version as the registry and callers want it; the bare name stands under ``""``."""
        wanted = dict(model.aliases)
        default = model.aliases.get(self.default_alias) or self._wishes.chosen.get(model.name) or model.latest
        if default is not None:
            wanted[BARE] = default
        return wanted

    def tags(self, name: str) -> ModelTags:
        """How a model's tags want it served."""
        return self._catalogue.tags(name)

    def state(self, version: ModelVersion) -> State | None:
        """One word for all members: ready where each has it that should hold it, failed where one failed."""
        return self.members.state(version)

    def knows(self, version: ModelVersion) -> bool:
        """Whether somebody has the version, has tried to, or should have it; the registry may have it no more."""
        return version in self._wishes.resident or bool(self.members.states(version))

    def has_let_go(self, version: ModelVersion) -> bool:
        """Whether a caller has asked for this version to leave memory, and nothing for it to come back."""
        return version in self._wishes.let_go

    def problems(self, model: RegisteredModel) -> tuple[str, ...]:
        """A sentence for each of a model's tags that cannot be followed."""
        return self._catalogue.problems(model)

    def _try_again(self, version: ModelVersion) -> None:
        """Have pools try what has failed."""
        if self.state(version) == "failed":
            self._wishes.retry(version)
            self.members.forgive(version)

    def _adopt(self, model: RegisteredModel) -> None:
        """Take over what a model's tag says of its aliases, when it is read for the first time."""
        if model.name not in self._adopted:
            self._adopted.add(model.name)
            self.live.adopt(model.name, self.tags(model.name).live, self.default_alias)

    def _forget(self, name: str) -> None:
        """The name means another model now, or none."""
        self.live.forget(name)
        self.switches.forget(name)
        self._wishes.forget(name)
        self._adopted.discard(name)

    def _pool_of(self, version: ModelVersion) -> str:
        return self.tags(version.name).pool

    def _copies(self, resident: Mapping[str, tuple[ModelVersion, ...]]) -> dict[ModelVersion, int]:
        copies = {
            version: count
            for version, count in self.members.hot.items()
            if version not in self._wishes.let_go and version.name in self.models
        }
        copies |= {version: self.members.copies_of(version) for versions in resident.values() for version in versions}
        return dict(sorted(copies.items()))

    def _follow(self, model: RegisteredModel) -> _Followed:
        """Take each alias of a model one step further."""
        followed = _Followed()
        before = self.live.of(model.name)
        pool = self.tags(model.name).pool
        asleep = self.members.is_asleep(pool) and not self._in_grace
        for alias, version in self.desired(model).items():
            step = self.switches.step(
                alias,
                ModelVersion(model.name, version),
                before.get(alias),
                forced=self._is_forced(model, alias, version),
                asleep=asleep,
                unloaded=self._wishes.let_go,
            )
            followed.live[alias] = step.live
            followed.warming.update(step.warming)
            if step.blocked is not None:
                followed.blocked[alias] = step.blocked
            elif step.warming and pool not in self._pools:
                followed.blocked[alias] = (
                    f"pool '{pool}', where it belongs by its tag {POOL_TAG}, is not configured; "
                    f"there are: {', '.join(self._pools)}"
                )
        if self.default_alias in followed.blocked:
            followed.blocked.pop(BARE, None)  # it says the same
        self.live.set(model.name, followed.live)
        return followed

    def _is_forced(self, model: RegisteredModel, alias: str, version: str) -> bool:
        """Whether an alias shall follow whatever speaks against it: by tag, or as a caller loaded that very version."""
        return self.tags(model.name).forced == version or (
            alias == BARE and self._wishes.chosen.get(model.name) == version and self.default_alias not in model.aliases
        )

    def _release(self, model: RegisteredModel) -> Release:
        live = self.live.of(model.name)
        return Release(
            model.name,
            live[BARE].version if BARE in live else None,
            {alias: one.version for alias, one in live.items() if alias != BARE},
            self.tags(model.name).pool,
            model.created,
            self.tags(model.name).batch,
            self._traffic(model.name, live),
            self._followed[model.name].blocked,
        )

    def _traffic(self, name: str, live: Mapping[str, Live]) -> Traffic | None:
        """What of a model's traffic can be in force."""
        plan = self.tags(name).traffic
        if plan is NO_TRAFFIC or BARE not in live:
            return None
        warm = {alias: live[alias].version for alias in plan.aliases & live.keys() if self._is_warm(name, live[alias])}
        return plan.in_force(warm, default=live[BARE].version)

    def _is_warm(self, name: str, live: Live) -> bool:
        version = ModelVersion(name, live.version)
        if self.members.holds(version) or self.members.is_asleep(self.tags(name).pool):
            return True
        return self._in_grace and live.proven and self.state(version) != "failed"

    def _resident(self, moving: set[ModelVersion]) -> dict[str, tuple[ModelVersion, ...]]:
        wanted = self._wishes.resident | moving | self._residency.of_references(self.live)
        for name, model in self.models.items():
            numbers = self._residency.of_model(model, self.tags(name).traffic, self.live)
            wanted |= {ModelVersion(name, number) for number in numbers}
        resident: dict[str, list[ModelVersion]] = {pool: [] for pool in sorted(self._pools)}
        for version in sorted(wanted - self._wishes.let_go):
            pool = self._pool_of(version)
            if pool in resident:
                resident[pool].append(version)
        return {pool: tuple(versions) for pool, versions in resident.items()}
