"""Tables of a run. `bench` prints them, `markdown` writes them to a page."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.record import Results
from benchmarks.summary import rows
from benchmarks.systems import BEFORE, BY_NAME
from benchmarks.targets import judge
from benchmarks.workloads import BY_NAME as WORKLOADS

HEADINGS = ("system", "dialect", "req/s", "min–max", "ratio", "p50 ms", "p90", "p99", "p99.9", "cores", "errors")
"""Columns of a workload's table. `ratio` is to the best peer, or to `before` where no peer was measured."""
TEXTS = 2
"""Number of columns that hold text; the others hold numbers."""


def cells(results: Results, workload: str) -> list[tuple[str, ...]]:
    """Return the rows of a workload's table, the fastest first; none where only the start is measured."""
    found = [row for row in rows(results, workload) if row.records[0].figures]
    peers = [row for row in found if not BY_NAME[row.system].is_ours]
    others = peers or [row for row in found if row.system == BEFORE]
    return [
        (
            row.system,
            row.dialect,
            f"{row.rate.median:,.0f}",
            f"{row.rate.least:,.0f}–{row.rate.most:,.0f}",
            f"{row.rate.median / max(other.rate.median for other in others):.2f}" if others else "–",
            *(f"{row.latency(key).median:,.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms")),
            f"{row.cores.median:.2f}",
            f"{row.errors}",
        )
        for row in found
    ]


def encoding_cells(results: Results) -> list[tuple[str, str, str]]:
    """Return the rows of the encodings' table: CPU milliseconds, and their ratio to the cheapest encoding."""
    least = min(results.encodings.values(), default=0)
    return [(name, f"{value:.2f}", f"{value / least:.1f}") for name, value in results.encodings.items()]


def show(results: Results, console: Console) -> None:
    """Print the tables, the verdicts on targets, failures and notes."""
    for name in results.workloads:
        found = cells(results, name) if name in WORKLOADS else []
        if found:
            table = Table(title=WORKLOADS[name].title, title_justify="left", title_style="bold")
            for at, heading in enumerate(HEADINGS):
                table.add_column(heading, justify="left" if at < TEXTS else "right")
            for one in found:
                table.add_row(*one, style="bold" if BY_NAME[one[0]].is_ours else None)
            console.print(table)
    if results.encodings:
        table = Table(title="CPU time of an encoding in a gateway", title_justify="left", title_style="bold")
        table.add_column("encoding")
        table.add_column("CPU ms", justify="right")
        table.add_column("ratio", justify="right")
        for line in encoding_cells(results):
            table.add_row(*line)
        console.print(table)
    for verdict in judge(results):
        if verdict.found is not None:
            color = "green" if verdict.met else "red"
            console.print(
                f"[{color}]{'✓' if verdict.met else '✗'}[/] {verdict.target}: {verdict.found.text}, {verdict.words}",
                highlight=False,
            )
    for text in results.failures:
        console.print(f"failed: {text[:600]}", style="red", markup=False)
    for text in results.notes:
        console.print(text[:600], style="yellow", markup=False)
