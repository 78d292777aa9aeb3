"""``ml-serve promote``, ``rollback`` and ``traffic``: which version of a model answers whom."""
# ruff: noqa: PLC0415 - httpx and rich are imported where they are used: help needs neither

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import inputs
from app.cli.remote import Json, Timeout, Url, connect

if TYPE_CHECKING:
    from ml_serve_client import AliasChange, Client, Traffic

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]
Alias = Annotated[
    str | None, typer.Option(metavar="ALIAS", help="The alias that is moved. Unset: what the bare name means.")
]


def promote(
    name: Name,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="The version, a number.")] = None,
    *,
    from_alias: Annotated[
        str | None, typer.Option("--from", metavar="ALIAS", help="Instead of a version: the one that this alias means.")
    ] = None,
    alias: Alias = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it takes other inputs, or fails its own example.")
    ] = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Warm a model version, then let callers get it: move an alias to it in the registry."""
    if (version is None) == (from_alias is None):
        raise typer.BadParameter("give a VERSION, or --from with another alias, and not both")
    with connect(url) as client:
        _tell(client.promote(name, version, from_alias=from_alias, alias=alias, force=force, timeout=timeout), as_json)


def rollback(name: Name, alias: Alias = None, timeout: Timeout = None, url: Url = None, as_json: Json = False) -> None:
    """Let callers get the version back that answered before."""
    with connect(url) as client:
        _tell(client.rollback(name, alias=alias, timeout=timeout), as_json)


def traffic(
    name: Name,
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ALIAS=PERCENT]...", help="How calls are divided, 100 together.", show_default=False),
    ] = None,
    *,
    shadow: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="The alias that gets a copy of each call.")
    ] = None,
    no_shadow: Annotated[bool, typer.Option("--no-shadow", help="Copy no calls any more.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Neither divide nor copy calls any more.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show or set how calls to a model's name are divided among its aliases, and copied to one."""
    wanted = dict(map(_weight, weights or ()))
    if len(wanted) < len(weights or ()):
        raise typer.BadParameter("give each alias once")
    if shadow is not None and no_shadow:
        raise typer.BadParameter("give --shadow or --no-shadow, not both")
    if clear and (wanted or shadow is not None):
        raise typer.BadParameter("--clear takes everything away: it goes without weights and --shadow")
    with connect(url) as client:
        if clear:
            found = client.set_traffic(name, {})
        elif wanted or shadow is not None or no_shadow:
            found = _changed(client, name, wanted, shadow, keep_shadow=shadow is None and not no_shadow)
        else:
            found = client.traffic(name)
    from app.cli import output

    if as_json:
        output.print_json(asdict(found))
    else:
        _show(found)


def _changed(client: Client, name: str, weights: dict[str, float], shadow: str | None, *, keep_shadow: bool) -> Traffic:
    """Set what was given, and leave the rest as it is."""
    before = client.traffic(name) if keep_shadow or not weights else None
    if before is not None:
        weights = weights or dict(before.weights)
        shadow = before.shadow if keep_shadow else shadow
    return client.set_traffic(name, weights, shadow=shadow)


def _weight(text: str) -> tuple[str, float]:
    alias, weight = inputs.read_pair(text)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise typer.BadParameter(f"'{text}' is not of the form ALIAS=PERCENT, such as challenger=10")
    return alias, weight


def _tell(switched: AliasChange, as_json: bool) -> None:
    from app.cli import output

    if as_json:
        output.print_json(asdict(switched))
        return
    who = f"{switched.model}@{switched.alias}"
    was = f", and v{switched.previous} before" if switched.previous is not None else ""
    answers = f"answers v{switched.version}" if switched.changed else f"answers v{switched.version} already"
    output.console().print(f"{who} {answers}{was}")


def _show(traffic: Traffic) -> None:
    from app.cli import output

    console = output.console()
    if not traffic.weights:
        console.print(f"{traffic.model}: calls are not divided")
    else:
        table = output.empty_table("alias", "version", "percent", numbers=1)
        for alias, weight in sorted(traffic.weights.items(), key=lambda item: (-item[1], item[0])):
            version = traffic.versions.get(alias)
            table.add_row(alias, f"v{version}" if version is not None else "-", f"{weight:g}")
        console.print(table)
    if traffic.shadow is not None:
        version = traffic.versions.get(traffic.shadow)
        answers = f"v{version}" if version is not None else "which answers nothing yet"
        console.print(f"copies go to {traffic.shadow}, {answers}")
    for problem in traffic.problems:
        console.print(problem)
