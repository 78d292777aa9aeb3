"""One registered model for people: what is registered, what answers, what is loaded where, and what is held up."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.table import ModelStatus


def every_status(book: ReleaseBook) -> list[ModelStatus]:
    """Every model, by name."""
    held: defaultdict[str, set[ModelVersion]] = defaultdict(set)
    for version in book.members.versions:
        held[version.name].add(version)
    return [_status(book, name, held[name]) for name in sorted(book.models)]


def status_of(book: ReleaseBook, name: str) -> ModelStatus:
    """One model. Raises `KeyError` where it is not in the book."""
    return _status(book, name, {version for version in book.members.versions if version.name == name})


def _status(book: ReleaseBook, name: str, held: set[ModelVersion]) -> ModelStatus:
    model = book.models[name]
    live = book.live.of(name)
    desired = book.desired(model)
    known = held | {ModelVersion(name, number) for number in desired.values()}
    known |= {ModelVersion(name, one.version) for one in live.values()}
    if model.latest is not None:
        known.add(ModelVersion(name, model.latest))
    versions = {}
    for version in sorted(known, key=lambda version: int(version.version)):
        states = book.members.states(version)
        versions[version.version] = {
            "state": _shown(book, version),
            "replicas": sum(state.state == "ready" for state in states),
            "bytes": max((state.nbytes for state in states), default=0),
            "load_ms": max((state.load_ms for state in states), default=0.0),
            "error": book.members.error(version),
        }
    tags = book.tags(name)
    return ModelStatus(
        name=name,
        default=book.live.version(name, BARE),
        aliases={alias: one.version for alias, one in live.items() if alias != BARE},
        desired={alias: version for alias, version in desired.items() if alias != BARE},
        pool=tags.pool,
        versions=versions,
        problems=book.problems(model),
        live={alias: one.shown() for alias, one in live.items() if alias != BARE or book.default_alias not in live},
        blocked=dict(book.blocked(name)),
        traffic=dict(tags.traffic.weights),
        shadow=tags.traffic.shadow,
    )


def release_health(book: ReleaseBook, registry_error: str | None) -> dict[str, Any]:
    """The registry and the models, each with its ``status``, as JSON values."""
    registry: dict[str, Any] = {"status": "ok"}
    if registry_error is not None:
        registry = {"status": "unavailable", "reason": registry_error}
        if book.stale_since is not None:
            registry["stale_since"] = datetime.fromtimestamp(book.stale_since, UTC).isoformat(timespec="seconds")
    models: dict[str, Any] = {"status": "ok"}
    failed = [f"{version}: {error}" for version, error in sorted(book.members.failures.items())]
    blocked = [
        f"{name}@{alias} stays at version {book.live.version(name, alias)}: {why}"
        for name in sorted(book.models)
        for alias, why in sorted(book.blocked(name).items())
    ]
    if failed or blocked:
        models["status"] = "degraded"
        models |= {key: value for key, value in (("failed", failed), ("blocked", blocked)) if value}
    return {"registry": registry, "models": models}


def _shown(book: ReleaseBook, version: ModelVersion) -> str:
    """The state for people: what nobody asked to be resident is ready where a call has brought it."""
    state = book.state(version)
    if state != "failed" and version not in book.table.copies and book.members.holds(version):
        return "ready"
    return state or "cold"
