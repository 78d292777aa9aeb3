"""Turns results into tables: medians over rounds, spread, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, Results
from benchmarks.systems import BY_NAME
from benchmarks.workloads import BY_NAME as WORKLOADS


@dataclass(frozen=True)
class Spread:
    """Median, least and most over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises `statistics.StatisticsError` where there are none."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


@dataclass(frozen=True)
class Row:
    """A system's figures in one workload and dialect."""

    system: str
    dialect: str
    records: tuple[Record, ...]

    def spread(self, value: Callable[[Record], float]) -> Spread:
        """Over the rounds."""
        return Spread.of(value(record) for record in self.records)

    @property
    def rate(self) -> float:
        """Median of right answers per second."""
        return self.spread(lambda record: record.figures.rate).median

    def p(self, name: str) -> float:
        """Median of a latency such as `p50_ms`."""
        return self.spread(lambda record: float(getattr(record.figures, name))).median

    @property
    def errors(self) -> int:
        return sum(record.figures.errors + record.checks["failed"] for record in self.records)

    @property
    def wrong(self) -> int:
        return sum(record.checks["wrong"] for record in self.records)


def rows(results: Results, workload: str) -> list[Row]:
    """Every system and dialect that the workload was measured with, the fastest first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in results.records:
        if record.workload == workload:
            found.setdefault((record.system, record.dialect), []).append(record)
    made = [Row(system, dialect, tuple(records)) for (system, dialect), records in found.items()]
    return sorted(made, key=lambda row: -row.rate)


def show(results: Results, console: Console) -> None:
    """Print a table for each workload, and what failed."""
    for name in results.workloads:
        found = rows(results, name)
        if not found:
            continue
        table = Table(title=WORKLOADS[name].title, title_justify="left", title_style="bold")
        table.add_column("system")
        table.add_column("asked by")
        for heading in ("req/s", "min–max", "× best peer", "p50 ms", "p90", "p99", "p99.9", "cores", "errors", "wrong"):
            table.add_column(heading, justify="right")
        peers = [row.rate for row in found if not BY_NAME[row.system].is_ours]
        for row in found:
            rate = row.spread(lambda record: record.figures.rate)
            table.add_row(
                row.system,
                row.dialect,
                f"{rate.median:,.0f}",
                f"{rate.least:,.0f}–{rate.most:,.0f}",
                f"{rate.median / max(peers):.2f}" if peers else "",
                *(f"{row.p(key):.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms")),
                f"{row.spread(lambda record: record.cores).median:.2f}",
                str(row.errors),
                str(row.wrong),
            )
        console.print(table)
    for failure in results.failures:
        console.print(f"failed: {failure[:600]}", style="red", markup=False)
    for note in results.notes:
        console.print(note, style="yellow", markup=False)
