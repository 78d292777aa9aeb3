"""Output of the commands: texts and tables for people, one JSON document for programs."""
# ruff: noqa: PLC0415 - help needs no rich

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from app.doctor import Check
    from ml_serve_client import Health, Model, ModelVersion, Prediction, ReplicaUsage

T = TypeVar("T")
Lines: TypeAlias = "Iterable[str | Table]"

_PIPE_WIDTH = 160
_STYLES = {"ok": "green", "ready": "green", "degraded": "yellow", "loading": "yellow", "cold": "dim"}


def console() -> Console:
    """Make a console on stdout without markup, so that names and messages are shown unchanged."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def show(found: T, as_json: bool, lines: Callable[[T], Lines]) -> None:
    """Print dataclasses as one JSON document, or what `lines` makes of them."""
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=asdict))
        return
    for line in lines(found):
        if isinstance(line, str):
            typer.echo(line)
        else:
            console().print(line)


def prediction_lines(prediction: Prediction) -> Lines:
    """Yield the version that answered, and a line of JSON for each row."""
    yield f"{prediction.model} v{prediction.version}"
    rows = prediction.predictions if isinstance(prediction.predictions, list) else [prediction.predictions]
    yield from map(json.dumps, rows)


def models_table(models: Sequence[Model]) -> Table:
    """Make a table with a row for each model."""
    from rich.text import Text

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
    """Count the models, and those whose default version is ready."""
    ready = sum(1 for model in models if (v := model.versions.get(model.default or "")) and v.state == "ready")
    failed = sum(1 for model in models if any(version.state == "failed" for version in model.versions.values()))
    blocked = sum(1 for model in models if model.blocked)
    text = f"models: {len(models)} registered, {ready} ready"
    text += f", {failed} with a failed version" if failed else ""
    return f"{text}, {blocked} with a blocked alias" if blocked else text


def parts_table(health: Health) -> Table:
    """Make a table with a row for each part of the platform."""
    table = empty_table("part", "state", "details")
    for name, part in health.parts.items():
        table.add_row(name.replace("_", " "), _state(part.status), "\n".join(_facts(part.details)))
    return table


def replicas_table(replicas: Sequence[ReplicaUsage]) -> Table:
    """Make a table with a row for each replica; MB are a million bytes."""
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
    fetched = f"{counts['downloads']:.0f} ({megabytes(int(counts['downloaded_bytes']))} MB)"
    damaged = f", {counts['damaged']:.0f} damaged" if counts["damaged"] else ""
    return f"{fetched}, {counts['hits']:.0f} cached{damaged}"


def keys_table(keys: Iterable[Mapping[str, Any]]) -> Table:
    """Make a table with a row for each API key."""
    table = empty_table("id", "name", "scopes", "models", "created", "expires")
    for key in keys:
        table.add_row(
            key["id"],
            key["name"],
            ", ".join(key["scopes"]),
            ", ".join(key["models"]),
            key["created"],
            key["expires"] or "never",
        )
    return table


def checks_table(checks: Iterable[Check]) -> Table:
    """Make a table with a row for each check."""
    from rich.text import Text

    table = empty_table("", "check", "result")
    for check in checks:
        table.add_row(Text("✓", "green") if check.ok else Text("✗", "red"), check.name, check.message)
    return table


def megabytes(nbytes: int) -> str:
    """Format bytes as MB, with a decimal below 100."""
    value = nbytes / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def empty_table(*headings: str, numbers: int = 0) -> Table:
    """Make an empty table, whose last `numbers` columns are aligned to the right. Long cells are folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        right = index >= len(headings) - numbers
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def _aliases(model: Model) -> Iterable[str]:
    """``champion v1``, or ``champion v1 → v2`` while version 1 is live and the registry wants 2."""
    for alias in sorted({*model.aliases, *model.desired}):
        live, desired = model.aliases.get(alias), model.desired.get(alias)
        shown = f"{alias} v{live}" if live is not None else alias
        yield shown if desired == live else f"{shown} → {f'v{desired}' if desired is not None else 'removed'}"


def _problems(model: Model) -> Iterable[str]:
    """Reasons of blocked aliases, errors of other versions, and ignored tags."""
    for alias, reason in sorted(model.blocked.items()):
        live = model.aliases.get(alias)
        yield f"{alias} {f'stays at v{live}' if live is not None else 'serves nothing'}: {reason}"
    blocked = [model.desired.get(alias) for alias in model.blocked]
    for number, version in model.versions.items():
        if version.error and number not in blocked:
            yield f"v{number}: {version.error}"
    yield from model.problems


def _version(number: str, version: ModelVersion) -> Text:
    from rich.text import Text

    memory = f" ×{version.replicas}, {megabytes(version.nbytes)} MB" if version.replicas else ""
    alone = ", not batched" if version.batching is not None and not version.batching.row_wise else ""
    isolated = ", isolated" if version.isolation is not None else ""
    doing = f" ({version.doing})" if version.doing is not None else ""
    return Text.assemble(f"v{number} ", _state(version.state), doing, memory, alone, isolated)


def _state(state: str) -> Text:
    from rich.text import Text

    return Text(state, _STYLES.get(state, "red"))


def _facts(details: Mapping[str, object]) -> Iterable[str]:
    """Details of a part, a line for each."""
    for key, value in details.items():
        if isinstance(value, Mapping):
            yield from (f"{name}: {text}" for name, text in value.items())
        elif isinstance(value, list):
            yield from (f"{key}: {item}" for item in value)
        else:
            yield str(value) if key == "reason" else f"{key} {value}"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
