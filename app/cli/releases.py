"""``ml-serve promote``, ``rollback`` and ``traffic``: which version of a model serves which requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import inputs, output
from app.cli.remote import Json, Timeout, Url, connect

if TYPE_CHECKING:
    from ml_serve_client import AliasChange, Traffic

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]
Alias = Annotated[
    str | None, typer.Option(metavar="ALIAS", help="Alias to move. Default: the one that the bare name stands for.")
]


def promote(
    name: Name,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="Number of the version.")] = None,
    *,
    from_alias: Annotated[
        str | None,
        typer.Option("--from", metavar="ALIAS", help="Promote the version of this alias, instead of VERSION."),
    ] = None,
    alias: Alias = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote an incompatible version, or one that fails its own input example.")
    ] = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Warm a model version and move an alias to it in the registry."""
    if (version is None) == (from_alias is None):
        raise typer.BadParameter("give either VERSION or --from ALIAS")
    with connect(url) as client:
        change = client.promote(name, version, from_alias=from_alias, alias=alias, force=force, timeout=timeout)
    output.show(change, as_json, _change_lines)


def rollback(name: Name, alias: Alias = None, timeout: Timeout = None, url: Url = None, as_json: Json = False) -> None:
    """Move an alias back to its previous version."""
    with connect(url) as client:
        output.show(client.rollback(name, alias=alias, timeout=timeout), as_json, _change_lines)


def traffic(
    name: Name,
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ALIAS=PERCENT]...", help="Traffic split of the bare name; 100 together.", show_default=False
        ),
    ] = None,
    *,
    shadow: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Alias that receives a copy of each call.")
    ] = None,
    no_shadow: Annotated[bool, typer.Option("--no-shadow", help="Remove the shadow.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove split and shadow.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show or set the traffic split and the shadow of a model."""
    split = dict(map(_weight, weights or ()))
    if len(split) < len(weights or ()):
        raise typer.BadParameter("give each alias once")
    if shadow is not None and no_shadow:
        raise typer.BadParameter("give --shadow or --no-shadow, not both")
    if clear and (split or shadow is not None):
        raise typer.BadParameter("--clear removes split and shadow; give it without weights and --shadow")
    with connect(url) as client:
        if clear:
            found = client.set_traffic(name, {})
        elif split or shadow is not None or no_shadow:
            before = client.traffic(name)  # what is not given stays
            if shadow is None and not no_shadow:
                shadow = before.shadow
            found = client.set_traffic(name, split or before.weights, shadow=shadow)
        else:
            found = client.traffic(name)
    output.show(found, as_json, _traffic_lines)


def _weight(text: str) -> tuple[str, float]:
    alias, weight = inputs.read_pair(text)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise typer.BadParameter(f"'{text}' is not of the form ALIAS=PERCENT, such as challenger=10")
    return alias, weight


def _change_lines(change: AliasChange) -> output.Lines:
    serves = "serves" if change.changed else "already serves"
    previously = f", previously v{change.previous}" if change.previous is not None else ""
    yield f"{change.model}@{change.alias} {serves} v{change.version}{previously}"


def _traffic_lines(traffic: Traffic) -> output.Lines:
    if not traffic.weights:
        yield f"{traffic.model}: no traffic split"
    else:
        table = output.empty_table("alias", "version", "percent", numbers=1)
        for alias, weight in sorted(traffic.weights.items(), key=lambda item: (-item[1], item[0])):
            version = traffic.versions.get(alias)
            table.add_row(alias, f"v{version}" if version is not None else "-", f"{weight:g}")
        yield table
    if traffic.shadow is not None:
        version = traffic.versions.get(traffic.shadow)
        yield f"shadow: {traffic.shadow} {f'v{version}' if version is not None else 'without a version yet'}"
    yield from traffic.problems
