"""What commands write to stdout: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from app.doctor import Check
    from ml_serve_client import Health, Model, ModelVersion, Prediction, ReplicaUsage

_WIDTH_OF_PIPES = 160
_STYLES = {"ok": "green", "ready": "green", "degraded": "yellow", "loading": "yellow"}
_OTHER_STYLE = {"cold": "dim"}


def console() -> Console:
    """Stdout. No markup: names and messages are shown as they are."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_PIPES
    return Console(markup=False, highlight=False, emoji=False, width=width)


def print_json(value: Any) -> None:
    """Write one JSON document."""
    typer.echo(json.dumps(value, indent=2))


def print_prediction(prediction: Prediction) -> None:
    """Which version answered, and a line of JSON for each row."""
    typer.echo(f"{prediction.model} v{prediction.version}")
    rows = prediction.predictions if isinstance(prediction.predictions, list) else [prediction.predictions]
    for row in rows:
        typer.echo(json.dumps(row))


def models_table(models: Sequence[Model]) -> Table:
    """A row for each model."""
    table = empty_table("model", "default", "aliases", "pool", "versions", "problems")
    for model in models:
        table.add_row(
            model.name,
            model.default or "-",
            "\n".join(_aliases(model)) or "-",
            model.pool,
            Text("\n").join(_version(number, version) for number, version in model.versions.items()),
            "\n".join(_problems(model)),
        )
    return table


def models_summary(models: Sequence[Model]) -> str:
    """How many models there are and how many of them are ready to answer by their bare name."""
    ready = sum(1 for model in models if (v := model.versions.get(model.default or "")) and v.state == "ready")
    failed = sum(1 for model in models if any(version.state == "failed" for version in model.versions.values()))
    blocked = sum(1 for model in models if model.blocked)
    text = f"models: {len(models)} registered, {ready} ready"
    text += f", {failed} with a failed version" if failed else ""
    return f"{text}, {blocked} with an alias that is held up" if blocked else text


def parts_table(health: Health) -> Table:
    """A row for each part of the platform."""
    table = empty_table("part", "state", "details")
    for name, part in health.parts.items():
        table.add_row(name.replace("_", " "), _state(part.status), "\n".join(_facts(part.details)))
    return table


def replicas_table(replicas: Sequence[ReplicaUsage]) -> Table:
    """A row for each replica; memory in MB, a million bytes."""
    table = empty_table("deployment", "replica", "RSS MB", "models", "models MB", "evictions", "downloads", numbers=5)
    for usage in sorted(replicas, key=lambda usage: (usage.deployment, usage.replica)):
        table.add_row(
            usage.deployment,
            usage.replica,
            megabytes(usage.rss_bytes),
            _number(usage.models),
            "" if usage.model_bytes is None else megabytes(usage.model_bytes),
            _number(usage.evictions),
            "" if usage.artifact_cache is None else _downloads(usage.artifact_cache),
        )
    return table


def _downloads(counts: Mapping[str, float]) -> str:
    """Artifacts fetched by a replica, and how often they were on its node's disk already."""
    fetched = f"{counts['downloads']:.0f} ({megabytes(int(counts['downloaded_bytes']))} MB)"
    damaged = f", {counts['damaged']:.0f} damaged" if counts["damaged"] else ""
    return f"{fetched}, {counts['hits']:.0f} cached{damaged}"


def checks_table(checks: Iterable[Check]) -> Table:
    """A row for each check."""
    table = empty_table("", "check", "result")
    for check in checks:
        table.add_row(Text("✓", "green") if check.ok else Text("✗", "red"), check.name, check.message)
    return table


def megabytes(nbytes: int) -> str:
    """Bytes in MB, with a decimal where there are few."""
    value = nbytes / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def empty_table(*headings: str, numbers: int = 0) -> Table:
    """An empty table, the last `numbers` columns to the right. Long cells are folded: nothing is cut off."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        right = index >= len(headings) - numbers
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def _aliases(model: Model) -> Iterable[str]:
    """``champion v1``, and ``champion v1 → v2`` where the registry says 2 and 1 still answers."""
    for alias in sorted({*model.aliases, *model.desired}):
        live, wanted = model.aliases.get(alias), model.desired.get(alias)
        shown = f"{alias} v{live}" if live is not None else alias
        yield shown if wanted == live else f"{shown} → {f'v{wanted}' if wanted is not None else 'removed'}"


def _problems(model: Model) -> Iterable[str]:
    """Why aliases do not answer what the registry says, what else failed to load, and tags that are ignored."""
    for alias, why in sorted(model.blocked.items()):
        live = model.aliases.get(alias)
        yield f"{alias} {f'stays at v{live}' if live is not None else 'answers nothing'}: {why}"
    held_up = [model.desired.get(alias) for alias in model.blocked]
    for number, version in model.versions.items():
        if version.error and number not in held_up:
            yield f"v{number}: {version.error}"
    yield from model.problems


def _version(number: str, version: ModelVersion) -> Text:
    text = Text.assemble(f"v{number} ", _state(version.state))
    if version.replicas:
        text.append(f" ×{version.replicas}, {megabytes(version.nbytes)} MB")
    return text


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state) or _OTHER_STYLE.get(state, "red"))


def _facts(details: Mapping[str, Any]) -> Iterable[str]:
    """What a part says of itself, a line for each fact."""
    for key, value in details.items():
        if isinstance(value, Mapping):
            yield from (f"{name}: {text}" for name, text in value.items())
        elif isinstance(value, list):
            yield from (f"{key}: {item}" for item in value)
        else:
            yield str(value) if key == "reason" else f"{key} {value}"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
