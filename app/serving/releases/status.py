"""Status of registered models for people: what is registered, what answers, what is loaded where, what is blocked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE
from app.serving.releases.release_state import ReleaseState, problems_of
from app.serving.releases.table import ModelStatus


def every_status(state: ReleaseState, default_alias: str) -> list[ModelStatus]:
    """Return the status of every model, by name."""
    held: defaultdict[str, set[ModelVersion]] = defaultdict(set)
    for version in state.members.versions:
        held[version.name].add(version)
    return [_status(state, name, held[name], default_alias) for name in sorted(state.models)]


def status_of(state: ReleaseState, name: str, default_alias: str) -> ModelStatus:
    """Return the status of one model. Raises `KeyError` where it is unknown."""
    held = {version for version in state.members.versions if version.name == name}
    return _status(state, name, held, default_alias)


def release_health(state: ReleaseState, registry_error: str | None) -> dict[str, Any]:
    """Return the health of the registry and of the models, each with its ``status``, as JSON values."""
    registry: dict[str, Any] = {"status": "ok"}
    if registry_error is not None:
        registry = {"status": "unavailable", "reason": registry_error}
        if (stale_since := state.observed.stale_since) is not None:
            registry["stale_since"] = datetime.fromtimestamp(stale_since, UTC).isoformat(timespec="seconds")
    failed = [f"{version}: {error}" for version, error in sorted(state.members.failures.items())]
    blocked = [
        f"{name}@{alias} stays at version {state.live(name, alias)}: {reason}"
        for name, release in sorted(state.table.releases.items())
        for alias, reason in sorted(release.blocked.items())
    ]
    models: dict[str, Any] = {"status": "degraded" if failed or blocked else "ok"}
    models |= {key: value for key, value in (("failed", failed), ("blocked", blocked)) if value}
    return {"registry": registry, "models": models}


def _status(state: ReleaseState, name: str, held: set[ModelVersion], default_alias: str) -> ModelStatus:
    model, aliases, tags = state.models[name], state.aliases[name], state.tags_of(name)
    numbers = {number for one in aliases.values() for number in (one.desired, one.live)}
    known = held | {ModelVersion(name, number) for number in numbers | ({model.latest} if model.latest else set())}
    named = {alias: one for alias, one in aliases.items() if alias != BARE}
    return ModelStatus(
        name=name,
        default=state.live(name, BARE),
        aliases={alias: one.live for alias, one in named.items()},
        desired={alias: one.desired for alias, one in named.items()},
        pool=tags.pool,
        versions={
            version.version: _version(state, version)
            for version in sorted(known, key=lambda version: int(version.version))
        },
        problems=problems_of(state, model),
        live={alias: one.shown() for alias, one in (named if default_alias in named else aliases).items()},
        blocked=dict(state.table.releases[name].blocked),
        traffic=dict(tags.traffic.weights),
        shadow=tags.traffic.shadow,
    )


def _version(state: ReleaseState, version: ModelVersion) -> dict[str, Any]:
    states = state.members.states(version)
    shown = state.members.state(version)
    # A version that is not resident is ready where a call has loaded it.
    if shown != "failed" and version not in state.table.copies and state.members.holds(version):
        shown = "ready"
    return {
        "state": shown or "cold",
        "replicas": sum(one.state == "ready" for one in states),
        "bytes": max((one.nbytes for one in states), default=0),
        "load_ms": max((one.load_ms for one in states), default=0.0),
        "batching": _batching(state, version),
        "error": state.members.error(version),
        "doing": next((one.doing for one in states if one.doing is not None), None),
        "isolation": next((one.isolation for one in states if one.isolation is not None), None),
        "accelerator": next((one.accelerator for one in states if one.accelerator is not None), None),
    }


def _batching(state: ReleaseState, version: ModelVersion) -> dict[str, Any] | None:
    """Return the batching contract that is in force; None where no pool member has the version in memory."""
    found = next((one.batching for one in state.members.states(version) if one.batching is not None), None)
    if found is None:
        return None
    contradicted = found.contradicted(state.observed.contradictions.get(version))
    return asdict(contradicted.declared(state.tags_of(version.name).batch.row_wise))
