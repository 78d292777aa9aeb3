"""Figures of a run over its rounds: medians and ranges."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.record import Record, Results

Figure = str
"""Name of a latency, such as `p50_ms`."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize at least one value. Raises `statistics.StatisticsError` without values."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one system in one workload and dialect."""

    system: str
    dialect: str
    records: tuple[Record, ...]

    @property
    def rate(self) -> Spread:
        """Successful answers per second."""
        return Spread.of(record.figures.rate for record in self.records if record.figures)

    @property
    def cores(self) -> Spread:
        """CPU seconds per second."""
        return Spread.of(record.cores for record in self.records)

    @property
    def start_s(self) -> Spread:
        """Seconds from the start to the first correct answer."""
        return Spread.of(record.start_s for record in self.records)

    @property
    def errors(self) -> int:
        """Failed requests and wrong answers, including those of the checks."""
        asked: int = sum(record.checks["failed"] + record.checks["wrong"] for record in self.records if record.checks)
        return asked + sum(record.figures.errors for record in self.records if record.figures)

    def latency(self, name: Figure) -> Spread:
        """Return a latency in milliseconds."""
        return Spread.of(getattr(record.figures, name) for record in self.records if record.figures)

    def memory(self, kind: str | None = None) -> Spread:
        """Return the bytes of the largest process of a kind, or of all processes together."""
        if kind is None:
            return Spread.of(sum(sum(found) for found in record.memory.values()) for record in self.records)
        return Spread.of(max(record.memory.get(kind, [0])) for record in self.records)


def rows(results: Results, workload: str) -> list[Row]:
    """Return a row for each measured system and dialect, the fastest first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in results.records:
        if record.workload == workload:
            found.setdefault((record.system, record.dialect), []).append(record)
    made = [Row(system, dialect, tuple(records)) for (system, dialect), records in found.items()]
    return sorted(made, key=lambda row: -row.rate.median if row.records[0].figures else row.start_s.median)


def best(results: Results, workload: str, *systems: str) -> Row | None:
    """Return the fastest of these systems over all dialects; None where none was measured."""
    return next((row for row in rows(results, workload) if row.system in systems), None)
