"""Performance targets, judged from the medians of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from benchmarks import dialects as d
from benchmarks.record import Results
from benchmarks.summary import Row, best, rows
from benchmarks.systems import ALL, INLINED, OURS

PEERS = tuple(system.name for system in ALL if not system.is_ours)
FASTAPI, MLSERVER = ("fastapi-1", "fastapi-2"), ("mlserver", "mlserver-mlflow")
MEGABYTE = 10**6
CLOSE = 1.05
"""A target that is met by a smaller factor is met narrowly."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a run shows about a target.

    Args:
        text: the result in words.
        margin: the factor by which it exceeds the target; below 1 the target is missed. Infinite or 0 where only yes
            and no exist.
    """

    text: str
    margin: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what the run shows; None where it was not measured."""

    target: str
    found: Found | None

    @property
    def met(self) -> bool | None:
        return None if self.found is None else self.found.margin >= 1

    @property
    def words(self) -> str:
        """Return the verdict in words."""
        if self.found is None:
            return "not measured"
        if self.found.margin < 1:
            return "missed"
        return f"met by {self.found.margin - 1:.1%}" if self.found.margin < CLOSE else "met"


def judge(results: Results) -> list[Verdict]:
    """Judge every target."""
    return [Verdict(target, look()) for target, look in _targets(results)]


Look = Callable[[], Found | None]


def _targets(results: Results) -> Iterator[tuple[str, Look]]:
    """Yield each target in words, and the function that judges it."""

    def faster(*given: Any) -> Look:
        return lambda: _faster(results, *given)

    def quicker(*given: Any, figure: str = "p50_ms") -> Look:
        return lambda: _quicker(results, *given, figure=figure)

    def dialect(*given: Any) -> Look:
        return lambda: _dialect(results, *given)

    def of(workload: str, look: Callable[[Row], Found | None]) -> Look:
        row = best(results, workload, OURS)
        return lambda: look(row) if row else None

    for connections, factor in ((64, 2.5), (8, 1.2)):
        yield (
            f"linear, {connections} connections: at least {factor} × the best peer",
            faster(f"linear-{connections}", OURS, factor, *PEERS),
        )
    yield "linear, 64 connections: p99 at most the best peer's", quicker("linear-64", OURS, 1, *PEERS, figure="p99_ms")
    yield "linear, 1 connection: p50 at most 1.3 × FastAPI's", quicker("linear-1", OURS, 1.3, *FASTAPI)
    for connections, factor in ((64, 2.8), (8, 1.5)):
        yield (
            f"linear, {connections} connections, in the gateway: at least {factor} × the best peer",
            faster(f"linear-{connections}", INLINED, factor, *PEERS),
        )
    yield (
        "linear, 1 connection, in the gateway: p50 at most 0.8 × FastAPI's",
        quicker("linear-1", INLINED, 0.8, *FASTAPI),
    )
    for one, factor in ((d.V1, 0.8), (d.V2_TENSOR, 0.8), (d.V2_COLUMNS, 0.8), (d.MLFLOW_OURS, 0.8), (d.GRPC, 0.6)):
        yield f"{one.name}, 64 connections: at least {factor} × /serve", dialect(one.name, factor)
    yield "600 requests/s: p99 at most the best peer's", quicker("linear-600rps", OURS, 1, *PEERS, figure="p99_ms")
    yield "forest, 64 connections: at least 2 × the best peer", faster("forest-64", OURS, 2, *PEERS)
    yield (
        "forest, 1 connection: p50 at most 2 ms",
        of("forest-1", lambda row: _most(row.latency("p50_ms").median, 2, "ms")),
    )
    yield "table, binary: at least 3 × MLServer", faster("table-binary", OURS, 3, *MLSERVER)
    yield "table, JSON: at least 8 × mlflow models serve", faster("table-json", OURS, 8, "mlflow")
    yield "features from the store: at least 0.85 × the rate without", lambda: _features(results)
    yield (
        "a hundred models: at least 600 requests/s",
        of("many", lambda row: _least(row.rate.median, 600, "requests/s")),
    )
    yield "a hundred models: p99 at most 300 ms", of("many", lambda row: _most(row.latency("p99_ms").median, 300, "ms"))
    yield "a hundred models: no request lost, no answer wrong", of("many", _lost)
    yield "a hundred models: the byte budget holds", of("many", _budget)
    yield (
        "memory of the whole platform with one model: at most 1,500 MB",
        of("linear-64", lambda row: _most(row.memory().median / MEGABYTE, 1500, "MB")),
    )
    yield (
        "start with models registered, to the first answer: at most 10 s",
        of("linear-64", lambda row: _most(row.start_s.median, 10, "s")),
    )


def _faster(results: Results, workload: str, ours: str, factor: float, *others: str) -> Found | None:
    """Judge whether answers per second are at least `factor` times those of the best other system."""
    own, other = best(results, workload, ours), best(results, workload, *others)
    if own is None or other is None:
        return None
    ratio = own.rate.median / other.rate.median
    rates = f"{own.rate.median:,.0f} against {other.rate.median:,.0f} requests/s of {other.system}"
    return Found(f"{ratio:.2f} × ({rates})", ratio / factor)


def _quicker(results: Results, workload: str, ours: str, factor: float, *others: str, figure: str) -> Found | None:
    """Judge whether a latency is at most `factor` times the lowest of the others."""
    own, other = best(results, workload, ours), _lowest(results, workload, figure, others)
    if own is None or other is None:
        return None
    mine, theirs = own.latency(figure).median, other.latency(figure).median
    return Found(
        f"{mine / theirs:.2f} × ({mine:.2f} ms against {theirs:.2f} ms of {other.system})", factor * theirs / mine
    )


def _dialect(results: Results, name: str, factor: float) -> Found | None:
    """Judge whether a dialect's answers per second are at least `factor` times those of `/serve`."""
    found = {row.dialect: row.rate.median for row in rows(results, "dialects-64") if row.system == OURS}
    if name not in found or d.SERVE.name not in found:
        return None
    ratio = found[name] / found[d.SERVE.name]
    return Found(f"{ratio:.2f} × ({found[name]:,.0f} against {found[d.SERVE.name]:,.0f} requests/s)", ratio / factor)


def _least(value: float, least: float, unit: str) -> Found:
    return Found(f"{value:,.0f} {unit}", value / least)


def _most(value: float, most: float, unit: str) -> Found:
    return Found(f"{value:,.1f} {unit}", most / value if value else 0)


def _lowest(results: Results, workload: str, latency: str, systems: Sequence[str]) -> Row | None:
    found = [row for row in rows(results, workload) if row.system in systems]
    return min(found, key=lambda row: row.latency(latency).median, default=None)


def _features(results: Results) -> Found | None:
    off, on = best(results, "features-off", OURS), best(results, "features-on", OURS)
    if off is None or on is None:
        return None
    ratio = on.rate.median / off.rate.median
    return Found(f"{ratio:.2f} × ({on.rate.median:,.0f} against {off.rate.median:,.0f} requests/s)", ratio / 0.85)


def _lost(row: Row) -> Found:
    requests = sum(record.figures.requests for record in row.records if record.figures)
    return Found(f"{row.errors} of {requests:,}", 0 if row.errors else inf)


def _budget(row: Row) -> Found:
    most = max(record.extra["most_bytes"] for record in row.records)
    budget = row.records[0].extra["budget_bytes"]
    ready = max(record.extra["ready"][1] for record in row.records)
    text = f"at most {most / MEGABYTE:.0f} of {budget / MEGABYTE:.0f} MB, {ready} models"
    return Found(text, inf if 0 < most <= budget else 0)
