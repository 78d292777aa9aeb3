"""``ml-serve compare``: two versions of a model side by side, with intervals."""
# ruff: noqa: PLC0415 - httpx and rich are imported where they are used: help needs neither

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.remote import Json, Url, connect

if TYPE_CHECKING:
    from rich.table import Table

    from ml_serve_client import ComparedVersion, Comparison, Difference, Estimate, ShadowComparison

_WHAT = {
    "divided": "calls of the bare name, dealt to the versions by chance",
    "all": "all calls, since callers were not divided between these two: they may differ in more than the version",
}

Write = Callable[[float], str]


def compare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="Alias or version to compare with.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Alias or version that is compared.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Compare two versions by what was counted for them."""
    with connect(url) as client:
        found = client.compare(name, base, other)
    from app.cli import output

    if as_json:
        output.print_json(asdict(found))
        return
    console = output.console()
    console.print(f"{found.model}: {_WHAT[found.counted]}")
    console.print(f"counted {_span(found.base)}; intervals at {found.level * 100:g} %\n")
    console.print(_versions(found))
    if found.shadow is not None:
        console.print(f"\ncopies of {_named(found.base)}'s requests for {_named(found.other)}")
        console.print(_copies(found.shadow))


def _versions(found: Comparison) -> Table:
    from app.cli.output import empty_table

    base, other = found.base, found.other
    shown = empty_table("", _named(base), _named(other), "difference", "")
    shown.add_row("requests", f"{base.requests:,}", f"{other.requests:,}", "", "")
    rows = (
        ("error rate", base.error_rate, other.error_rate, found.error_rate, _percent),
        ("latency", base.latency_s, other.latency_s, found.latency_s, _milliseconds),
        ("prediction", base.prediction, other.prediction, found.prediction, _number),
    )
    for label, mine, theirs, difference, write in rows:
        told = difference.verdict if difference is not None else ""
        shown.add_row(label, _estimate(mine, write), _estimate(theirs, write), _difference(difference, write), told)
    return shown


def _copies(shadow: ShadowComparison) -> Table:
    from app.cli.output import empty_table

    shown = empty_table("", "", "")
    shown.show_header = False
    shown.add_row("requests", f"{shadow.requests:,} with {shadow.rows:,} rows", "")
    shown.add_row("other label or form", _estimate(shadow.mismatch_rate, _percent), "of the rows")
    if shadow.difference is not None and shadow.largest is not None and shadow.relative is not None:
        told = f"at most {_number(shadow.largest)}, {_percent(shadow.relative)} on average"
        shown.add_row("difference", _estimate(shadow.difference, _number), told)
    if shadow.latency_s is not None:
        shown.add_row("latency", _difference(shadow.latency_s, _milliseconds), shadow.latency_s.verdict)
    codes = ", ".join(f"{count} {code}" for code, count in sorted(shadow.errors.items()))
    shown.add_row("error rate", _estimate(shadow.error_rate, _percent), codes)
    if shadow.dropped:
        bounds = ", ".join(f"{count} by the bound on {what}" for what, count in sorted(shadow.dropped.items()))
        shown.add_row("not sent", f"{sum(shadow.dropped.values()):,}", bounds)
    return shown


def _named(side: ComparedVersion) -> str:
    return f"{side.reference} v{side.version}" if side.reference != side.version else f"v{side.version}"


def _span(side: ComparedVersion) -> str:
    return f"from {side.since} to {side.until}" if side.since is not None else "since the gateway started"


def _estimate(estimate: Estimate | None, write: Write) -> str:
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return write(estimate.value)
    return f"{write(estimate.value)} ({write(estimate.low)} … {write(estimate.high)})"


def _difference(difference: Difference | None, write: Write) -> str:
    if difference is None:
        return "-"
    value, low, high = (
        f"{'+' if number > 0 else ''}{write(number)}" for number in (difference.value, difference.low, difference.high)
    )
    return f"{value} ({low} … {high})"


def _percent(value: float) -> str:
    return f"{value * 100:.2f} %"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.2f} ms"


def _number(value: float) -> str:
    return f"{value:.4g}"
