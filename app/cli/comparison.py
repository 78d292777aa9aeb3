"""``ml-serve compare``: two versions of a model side by side, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import output
from app.cli.remote import Json, Url, connect

if TYPE_CHECKING:
    from rich.table import Table

    from ml_serve_client import ComparedVersion, Comparison, Difference, Estimate, ShadowComparison

_COUNTED = {
    "divided": "calls of the bare name, assigned to the versions at random",
    "all": "all calls; without a traffic split, the callers of the versions may differ too",
}

Write = Callable[[float], str]


def compare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="Alias or version to compare with.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Alias or version to compare.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Compare two versions by the counts of the gateway."""
    with connect(url) as client:
        output.show(client.compare(name, base, other), as_json, _lines)


def _lines(result: Comparison) -> output.Lines:
    yield f"{result.model}: {_COUNTED[result.counted]}"
    yield f"counted {_span(result.base)}; intervals at {result.level * 100:g} %\n"
    yield _versions_table(result)
    if result.shadow is not None:
        yield f"\nshadow requests of {_named(result.base)}, sent to {_named(result.other)}"
        yield _shadow_table(result.shadow)


def _versions_table(result: Comparison) -> Table:
    base, other = result.base, result.other
    shown = output.empty_table("", _named(base), _named(other), "difference", "")
    shown.add_row("requests", f"{base.requests:,}", f"{other.requests:,}", "", "")
    rows = (
        ("error rate", base.error_rate, other.error_rate, result.error_rate, _percent),
        ("latency", base.latency_s, other.latency_s, result.latency_s, _milliseconds),
        ("prediction", base.prediction, other.prediction, result.prediction, _number),
    )
    for label, of_base, of_other, difference, write in rows:
        verdict = difference.verdict if difference is not None else ""
        shown.add_row(
            label, _estimate(of_base, write), _estimate(of_other, write), _difference(difference, write), verdict
        )
    return shown


def _shadow_table(shadow: ShadowComparison) -> Table:
    shown = output.empty_table("", "", "")
    shown.show_header = False
    shown.add_row("requests", f"{shadow.requests:,} with {shadow.rows:,} rows", "")
    shown.add_row("mismatches", _estimate(shadow.mismatch_rate, _percent), "of the rows")
    if shadow.difference is not None and shadow.largest is not None and shadow.relative is not None:
        note = f"at most {_number(shadow.largest)}, {_percent(shadow.relative)} on average"
        shown.add_row("difference", _estimate(shadow.difference, _number), note)
    if shadow.latency_s is not None:
        shown.add_row("latency", _difference(shadow.latency_s, _milliseconds), shadow.latency_s.verdict)
    codes = ", ".join(f"{count} {code}" for code, count in sorted(shadow.errors.items()))
    shown.add_row("error rate", _estimate(shadow.error_rate, _percent), codes)
    if shadow.dropped:
        limits = ", ".join(f"{count} by the limit on {what}" for what, count in sorted(shadow.dropped.items()))
        shown.add_row("dropped", f"{sum(shadow.dropped.values()):,}", limits)
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
