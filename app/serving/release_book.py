"""Works out what should be served, from what the registry says, what callers asked for and what pools report.

Pure bookkeeping: `app.deployments.releases` feeds it and publishes the `ReleaseTable` it makes. The rules:

- an alias in the registry is the *desired* version; what answers (*live*) follows once that version is warm on every
  replica of its pool, and stays where it is when it fails to load;
- the bare name follows the default alias, else a version that a caller loaded by name, else the newest READY one;
- resident are the default versions named by the `preload` setting, versions that callers loaded, and versions that
  an alias is about to switch to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.serving.model_ref import ModelRef, ModelVersion, parse_ref
from app.serving.ports import RegisteredModel
from app.serving.release_table import ModelStatus, Release, ReleaseTable, State, VersionState

POOL_TAG = "serving.pool"
DEFAULT_POOL = "default"
_BARE = ""
"""The key under which the bare name stands among the aliases in `ReleaseBook._live`."""


@dataclass(slots=True)
class _Replica:
    pool: str
    states: dict[ModelVersion, VersionState] = field(default_factory=dict)
    seen: float = 0.0


class ReleaseBook:
    """The state behind the release table. Not thread-safe: it lives on one event loop.

    Args:
        default_alias: the alias that a bare name means.
        preload: references to keep resident; ``*`` is every model that has the default alias.
        pools: names of the configured pools.
        replica_ttl_s: seconds after which a pool replica that is not heard of counts as gone.
        cold_pools: pools that may have no replica; what they host does not count for readiness.
        term: tells this life of `Releases` from earlier ones.
    """

    def __init__(
        self,
        *,
        default_alias: str,
        preload: Sequence[str],
        pools: Sequence[str],
        replica_ttl_s: float = 45.0,
        cold_pools: Sequence[str] = (),
        term: int = 0,
    ) -> None:
        self._default_alias = default_alias
        self._preload_all = "*" in preload
        self._preload = [parse_ref(reference) for reference in preload if reference != "*"]
        self._pools = frozenset(pools)
        self._cold_pools = frozenset(cold_pools)
        self._replica_ttl_s = replica_ttl_s
        self._models: dict[str, RegisteredModel] = {}
        self._live: dict[str, dict[str, str]] = {}
        self._chosen: dict[str, str] = {}
        self._pinned: set[ModelVersion] = set()
        self._let_go: set[ModelVersion] = set()
        self._retries: dict[ModelVersion, int] = {}
        self._unloads: dict[ModelVersion, int] = {}
        self._replicas: dict[str, _Replica] = {}
        self.has_registry = False
        self.table = ReleaseTable(term)

    # What comes in

    def registry_read(self, models: Sequence[RegisteredModel]) -> None:
        """The registry as it is now, whole. A model that is gone is forgotten."""
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
        self._models[model.name] = model

    def pin(self, version: ModelVersion) -> None:
        """A caller asked for this version to be resident; where no default alias is set it becomes the default."""
        if self.state(version) == "failed":
            self._retries[version] = self._retries.get(version, 0) + 1
            for replica in self._replicas.values():
                if (known := replica.states.get(version)) is not None and known.state == "failed":
                    del replica.states[version]
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
        self._unloads[version] = self._unloads.get(version, 0) + 1

    def reported(self, replica_id: str, pool: str, states: Mapping[ModelVersion, VersionState], now: float) -> None:
        """What one pool replica holds. `now` is a monotonic time in seconds."""
        self._replicas[replica_id] = _Replica(pool, dict(states), now)

    def holds(self, version: ModelVersion) -> bool:
        """Whether some replica has the version in memory."""
        states = (replica.states.get(version) for replica in self._of_pool(version))
        return any(known is not None and known.state == "ready" for known in states)

    def heard_of(self, replica_id: str, now: float) -> None:
        """The replica lives; what it holds has not changed."""
        if replica_id in self._replicas:
            self._replicas[replica_id].seen = now

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
        for replica_id in [key for key, r in self._replicas.items() if now - r.seen > self._replica_ttl_s]:
            del self._replicas[replica_id]
        self._live = {name: live for name, live in self._live.items() if name in self._models}
        moving: set[ModelVersion] = set()
        releases = {}
        for model in self._models.values():
            live, warming = self._follow(model)
            moving |= warming
            self._live[model.name] = live
            aliases = {alias: version for alias, version in live.items() if alias != _BARE}
            pool = self.pool_of(model)
            releases[model.name] = Release(model.name, live.get(_BARE), aliases, pool, model.created)
        self._let_go -= moving  # an alias that names a version asks for it again
        resident = self._resident(moving)
        warm = [versions for pool, versions in resident.items() if pool not in self._cold_pools]
        answering = {version for versions in warm for version in versions} - moving
        ready = self.has_registry and all(self.state(version) in ("ready", "failed") for version in answering)
        term, epoch = self.table.term, self.table.epoch
        table = ReleaseTable(term, epoch, releases, resident, dict(self._unloads), dict(self._retries), ready)
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
        """One word for all replicas: ready where every replica of the pool has it, failed where one failed."""
        states = [replica.states.get(version) for replica in self._of_pool(version)]
        kinds = {known.state for known in states if known is not None}
        if "failed" in kinds:
            return "failed"
        if states and None not in states and kinds == {"ready"}:
            return "ready"
        return "loading" if "loading" in kinds else None

    def error(self, version: ModelVersion) -> str | None:
        """What a replica said when it failed to load the version."""
        known = (replica.states.get(version) for replica in self._of_pool(version))
        return next((state.error for state in known if state is not None and state.state == "failed"), None)

    def failures(self) -> dict[ModelVersion, str]:
        """What some replica failed to load, and why."""
        states = [item for replica in self._replicas.values() for item in replica.states.items()]
        return {version: state.error or "" for version, state in states if state.state == "failed"}

    def status(self) -> list[ModelStatus]:
        """Every model for people, by name."""
        return [self.status_of(name) for name in sorted(self._models)]

    def status_of(self, name: str) -> ModelStatus:
        """One model for people. Raises `KeyError` where it is not in the book."""
        model = self._models[name]
        live = self._live.get(model.name, {})
        desired = self.desired(model)
        known = {v for replica in self._replicas.values() for v in replica.states if v.name == model.name}
        known |= {ModelVersion(model.name, v) for v in (*live.values(), *desired.values())}
        if model.latest is not None:
            known.add(ModelVersion(model.name, model.latest))
        versions = {}
        for version in sorted(known, key=lambda v: int(v.version)):
            states = [s for r in self._of_pool(version) if (s := r.states.get(version)) is not None]
            versions[version.version] = {
                "state": self.state(version) or "cold",
                "replicas": sum(state.state == "ready" for state in states),
                "bytes": max((state.nbytes for state in states), default=0),
                "load_ms": max((state.load_ms for state in states), default=0.0),
                "error": self.error(version),
            }
        return ModelStatus(
            name=model.name,
            default=live.get(_BARE),
            aliases={alias: version for alias, version in live.items() if alias != _BARE},
            desired={alias: version for alias, version in desired.items() if alias != _BARE},
            pool=self.pool_of(model),
            versions=versions,
        )

    def _of_pool(self, version: ModelVersion) -> list[_Replica]:
        model = self._models.get(version.name)
        pool = self.pool_of(model) if model is not None else DEFAULT_POOL
        return [replica for replica in self._replicas.values() if replica.pool == pool]

    def _follow(self, model: RegisteredModel) -> tuple[dict[str, str], set[ModelVersion]]:
        """What answers now for each reference to the model, and the versions that must warm up before they may."""
        live: dict[str, str] = {}
        warming: set[ModelVersion] = set()
        before = self._live.get(model.name, {})
        for alias, version in self.desired(model).items():
            current = before.get(alias)
            key = ModelVersion(model.name, version)
            if current is None or current == version or self.state(key) == "ready":
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
