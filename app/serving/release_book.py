"""Works out what should be served, from what the registry says, what callers asked for and what pools report.

Pure bookkeeping: `app.deployments.releases` feeds it and publishes the `ReleaseTable` it makes. The rules:

- an alias in the registry is the *desired* version; what answers (*live*) follows once that version is warm on every
  member of its pool that should hold it, and stays where it is when it fails to load;
- the bare name follows the default alias, else a version that a caller loaded by name, else the newest READY one;
- resident are the default versions named by the `preload` setting, versions that callers loaded, and versions that
  an alias is about to switch to;
- each version has as many copies as its load needs, what is resident no fewer than its pool's settings say; which
  members hold them follows from the ring.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.serving.batch_limits import read_tags
from app.serving.model_ref import ModelRef, ModelVersion, parse_ref
from app.serving.pool_members import PoolMembers, PoolPlan
from app.serving.ports import RegisteredModel
from app.serving.release_table import ModelStatus, Release, ReleaseTable, State

log = logging.getLogger(__name__)

POOL_TAG = "serving.pool"
DEFAULT_POOL = "default"
_BARE = ""
"""The key under which the bare name stands among the aliases in `ReleaseBook._live`."""


class ReleaseBook:
    """The state behind the release table. Not thread-safe: it lives on one event loop.

    Args:
        default_alias: the alias that a bare name means.
        preload: references to keep resident; ``*`` is every model that has the default alias.
        pools: the configured pools.
        member_ttl_s: seconds after which a pool member that is not heard of counts as gone.
        calm_s: seconds for which a version's load must be lower before it has fewer copies.
        term: tells this life of `Releases` from earlier ones.
    """

    def __init__(
        self,
        *,
        default_alias: str,
        preload: Sequence[str],
        pools: Mapping[str, PoolPlan],
        member_ttl_s: float = 25.0,
        calm_s: float = 60.0,
        term: int = 0,
    ) -> None:
        self._default_alias = default_alias
        self._preload_all = "*" in preload
        self._preload = [parse_ref(reference) for reference in preload if reference != "*"]
        self._pools = dict(pools)
        self._models: dict[str, RegisteredModel] = {}
        self._live: dict[str, dict[str, str]] = {}
        self._chosen: dict[str, str] = {}
        self._pinned: set[ModelVersion] = set()
        self._let_go: set[ModelVersion] = set()
        self._retries: dict[ModelVersion, int] = {}
        self._unloads: dict[ModelVersion, int] = {}
        self.members = PoolMembers(self._pools, self._pool_of, ttl_s=member_ttl_s, calm_s=calm_s)
        self.has_registry = False
        self.table = ReleaseTable(term)

    # What comes in

    def registry_read(self, models: Sequence[RegisteredModel]) -> None:
        """The registry as it is now, whole. A model that is gone is forgotten."""
        for model in models:
            self._warn(model)
        self._models = {model.name: model for model in models}
        self.has_registry = True
        for versions in (self._pinned, self._let_go):
            versions.intersection_update({version for version in versions if version.name in self._models})
        for counts in (self._retries, self._unloads):
            for version in [version for version in counts if version.name not in self._models]:
                del counts[version]
        self._chosen = {name: version for name, version in self._chosen.items() if name in self._models}

    def model_read(self, model: RegisteredModel) -> None:
        """One model as the registry has it now."""
        self._warn(model)
        self._models[model.name] = model

    def pin(self, version: ModelVersion) -> None:
        """A caller asked for this version to be resident; where no default alias is set it becomes the default."""
        if self.state(version) == "failed":
            self._retries[version] = self._retries.get(version, 0) + 1
            self.members.forgive(version)
        self._pinned.add(version)
        self._let_go.discard(version)
        model = self._models.get(version.name)
        if model is None or self._default_alias not in model.aliases:
            self._chosen[version.name] = version.version

    def unpin(self, version: ModelVersion) -> None:
        """Take a `pin` back: the version is resident no longer for its own sake, but is not told to leave either."""
        self._pinned.discard(version)
        if self._chosen.get(version.name) == version.version:
            del self._chosen[version.name]

    def let_go(self, version: ModelVersion) -> None:
        """A caller asked for this version to leave memory. It comes back when it is called or loaded again."""
        self.unpin(version)
        self._let_go.add(version)
        self.members.released(version)
        self._unloads[version] = self._unloads.get(version, 0) + 1

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take over what `snapshot` wrote before a restart."""
        self._live = {name: dict(live) for name, live in snapshot.get("live", {}).items()}
        self._chosen = dict(snapshot.get("chosen", {}))
        self._pinned = {ModelVersion(*pair) for pair in snapshot.get("pinned", [])}
        self._let_go = {ModelVersion(*pair) for pair in snapshot.get("let_go", [])}
        for model in snapshot.get("models", []):
            self._models[model["name"]] = RegisteredModel(**model)
            self.has_registry = True  # as good as read: with the registry down, a restart serves from this

    # What comes out

    def snapshot(self) -> dict[str, Any]:
        """Everything that must survive a restart, as JSON values; no replica's state is among it."""
        return {
            "live": self._live,
            "chosen": self._chosen,
            "pinned": sorted(self._pinned),
            "let_go": sorted(self._let_go),
            "models": [
                {
                    "name": model.name,
                    "aliases": dict(model.aliases),
                    "tags": dict(model.tags),
                    "latest": model.latest,
                    "created": model.created,
                }
                for model in self._models.values()
            ],
        }

    def settle(self, now: float) -> bool:
        """Work out the table anew; True when it differs from the last one, and then has a higher epoch."""
        self.members.settle(now)
        self._live = {name: live for name, live in self._live.items() if name in self._models}
        moving: set[ModelVersion] = set()
        releases = {}
        for model in self._models.values():
            live, warming = self._follow(model)
            moving |= warming
            self._live[model.name] = live
            aliases = {alias: version for alias, version in live.items() if alias != _BARE}
            pool = self.pool_of(model)
            batch, _ = read_tags(model.tags)
            releases[model.name] = Release(model.name, live.get(_BARE), aliases, pool, model.created, batch)
        self._let_go -= moving  # an alias that names a version asks for it again
        resident = self._resident(moving)
        warm = [versions for pool, versions in resident.items() if not self._pools[pool].cold]
        answering = {version for versions in warm for version in versions} - moving
        ready = self.has_registry and all(self.state(version) in ("ready", "failed") for version in answering)
        term, epoch = self.table.term, self.table.epoch
        table = ReleaseTable(
            term,
            epoch,
            releases,
            resident,
            self.members.names,
            self._copies(resident),
            dict(self._unloads),
            dict(self._retries),
            ready,
            frozenset(pool for pool, plan in self._pools.items() if plan.cold),
        )
        if table == self.table:
            return False
        self.table = replace(table, epoch=self.table.epoch + 1)
        return True

    def desired(self, model: RegisteredModel) -> dict[str, str]:
        """Alias to version as the registry and callers want it; the bare name stands under ``""``."""
        wanted = dict(model.aliases)
        default = model.aliases.get(self._default_alias) or self._chosen.get(model.name) or model.latest
        if default is not None:
            wanted[_BARE] = default
        return wanted

    def pool_of(self, model: RegisteredModel) -> str:
        return model.tags.get(POOL_TAG, DEFAULT_POOL)

    def state(self, version: ModelVersion) -> State | None:
        """One word for all members: ready where each has it that should hold it, failed where one failed."""
        return self.members.state(version)

    def status(self) -> list[ModelStatus]:
        """Every model for people, by name."""
        return [self.status_of(name) for name in sorted(self._models)]

    def status_of(self, name: str) -> ModelStatus:
        """One model for people. Raises `KeyError` where it is not in the book."""
        model = self._models[name]
        live = self._live.get(model.name, {})
        desired = self.desired(model)
        known = {version for version in self.members.versions if version.name == model.name}
        known |= {ModelVersion(model.name, v) for v in (*live.values(), *desired.values())}
        if model.latest is not None:
            known.add(ModelVersion(model.name, model.latest))
        versions = {}
        for version in sorted(known, key=lambda v: int(v.version)):
            states = self.members.states(version)
            versions[version.version] = {
                "state": self._shown(version),
                "replicas": sum(state.state == "ready" for state in states),
                "bytes": max((state.nbytes for state in states), default=0),
                "load_ms": max((state.load_ms for state in states), default=0.0),
                "error": self.members.error(version),
            }
        return ModelStatus(
            name=model.name,
            default=live.get(_BARE),
            aliases={alias: version for alias, version in live.items() if alias != _BARE},
            desired={alias: version for alias, version in desired.items() if alias != _BARE},
            pool=self.pool_of(model),
            versions=versions,
            problems=read_tags(model.tags)[1],
        )

    def _warn(self, model: RegisteredModel) -> None:
        """Tell of tags that cannot be followed, once each time they change."""
        before = self._models.get(model.name)
        if before is None or before.tags != model.tags:
            for problem in read_tags(model.tags)[1]:
                log.warning("model '%s': %s", model.name, problem)

    def _shown(self, version: ModelVersion) -> str:
        """The state for people: what nobody asked to be resident is ready where a call has brought it."""
        state = self.state(version)
        if state != "failed" and version not in self.table.copies and self.members.holds(version):
            return "ready"
        return state or "cold"

    def _pool_of(self, version: ModelVersion) -> str:
        model = self._models.get(version.name)
        return self.pool_of(model) if model is not None else DEFAULT_POOL

    def _copies(self, resident: Mapping[str, tuple[ModelVersion, ...]]) -> dict[ModelVersion, int]:
        copies = {
            version: count
            for version, count in self.members.hot.items()
            if version not in self._let_go and version.name in self._models
        }
        copies |= {version: self.members.copies_of(version) for versions in resident.values() for version in versions}
        return dict(sorted(copies.items()))

    def _follow(self, model: RegisteredModel) -> tuple[dict[str, str], set[ModelVersion]]:
        """What answers now for each reference to the model, and the versions that must warm up before they may."""
        live: dict[str, str] = {}
        warming: set[ModelVersion] = set()
        before = self._live.get(model.name, {})
        for alias, version in self.desired(model).items():
            current = before.get(alias)
            key = ModelVersion(model.name, version)
            asleep = self.members.is_asleep(self.pool_of(model))  # nobody to warm it: the next call does
            if current is None or current == version or asleep or self.state(key) == "ready":
                live[alias] = version
            else:
                live[alias] = current
                warming.add(key)
        return live, warming

    def _resident(self, moving: set[ModelVersion]) -> dict[str, tuple[ModelVersion, ...]]:
        wanted = set(self._pinned) | moving
        for model in self._models.values():
            default = self._live[model.name].get(_BARE)
            if self._preload_all and self._default_alias in model.aliases and default is not None:
                wanted.add(ModelVersion(model.name, default))
        wanted |= {version for ref in self._preload if (version := self._meaning(ref)) is not None}
        resident: dict[str, list[ModelVersion]] = {pool: [] for pool in sorted(self._pools)}
        for version in sorted(wanted - self._let_go):
            registered = self._models.get(version.name)
            pool = self.pool_of(registered) if registered is not None else DEFAULT_POOL
            if pool in resident:
                resident[pool].append(version)
        return {pool: tuple(versions) for pool, versions in resident.items()}

    def _meaning(self, ref: ModelRef) -> ModelVersion | None:
        version = ref.version or self._live.get(ref.name, {}).get(ref.alias or _BARE)
        return ModelVersion(ref.name, version) if version is not None else None
