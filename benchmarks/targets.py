"""Performance targets, judged from the medians of one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.record import Results
from benchmarks.summary import Row, best, rows
from benchmarks.systems import ALL, INLINED, OURS

PEERS = tuple(system.name for system in ALL if not system.is_ours)
UNBATCHED = tuple(system.name for system in ALL if not system.batches)
FASTAPI, MLSERVER = ("fastapi-1", "fastapi-2"), ("mlserver", "mlserver-mlflow")
MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, the result in words, and whether the result meets it; None where it was not measured."""

    target: str
    found: str
    met: bool | None


def judge(results: Results) -> list[Verdict]:
    """Judge every target."""
    made = []
    for target, look in _targets(results):
        seen = look()
        made.append(Verdict(target, *seen) if seen else Verdict(target, "not measured", None))
    return made


Found = tuple[str, bool]
"""The result in words, and whether it meets the target."""
Look = Callable[[], Found | None]


def _targets(results: Results) -> Iterator[tuple[str, Look]]:
    """Yield each target in words, and the function that judges it."""

    def faster(*given: Any) -> Look:
        return lambda: _faster(results, *given)

    def quicker(*given: Any) -> Look:
        return lambda: _quicker(results, *given)

    def of(workload: str, look: Callable[[Row], Found], ours: str = OURS) -> Look:
        row = best(results, workload, ours)
        return lambda: look(row) if row else None

    yield "linear, 64 connections: at least 1.8 × the best peer", faster("linear-64", OURS, 1.8, *PEERS)
    yield "linear, 64 connections: p99 below every peer's", lambda: _tail(results)
    yield "linear, 64 connections: at least 12 × textbook Ray Serve", faster("linear-64", OURS, 12, "ray")
    yield "linear, 64 connections, in the gateway: at least 2 × the best peer", faster("linear-64", INLINED, 2, *PEERS)
    yield "linear, 1 connection, in the gateway: p50 at most FastAPI's", quicker("linear-1", INLINED, 1, *FASTAPI)
    yield "linear, 1 connection: p50 at most 2.5 × FastAPI's", quicker("linear-1", OURS, 2.5, *FASTAPI)
    yield "forest: at least 5 × the best peer that does not batch", faster("forest-64", OURS, 5, *UNBATCHED)
    yield "forest: at least 1.5 × MLServer", faster("forest-64", OURS, 1.5, *MLSERVER)
    yield "table, binary: at least 2 × MLServer", faster("table-binary", OURS, 2, *MLSERVER)
    yield "table, binary: at least 3 × mlflow models serve", faster("table-binary", OURS, 3, "mlflow")
    yield "table, JSON: at least 1.5 × mlflow models serve", faster("table-json", OURS, 1.5, "mlflow")
    yield "features from the store: at least 0.6 × the rate without", lambda: _features(results)
    yield "a hundred models: no request lost, no answer wrong", of("many", _lost)
    yield (
        "a hundred models: a hit takes at most 1.3 × the time with one model",
        lambda: _hits(results),
    )
    yield "a hundred models: the byte budget holds", of("many", _budget)
    yield "memory: a gateway replica at most 300 MB", of("linear-64", lambda row: _memory(row, "Gateway", 300))
    yield (
        "memory: a pool replica with one model at most 450 MB",
        of("linear-64", lambda row: _memory(row, "ModelPool-default", 450)),
    )
    yield "start: from nothing to the first answer in at most 45 s", of("start", _start)


def _faster(results: Results, workload: str, ours: str, factor: float, *others: str) -> Found | None:
    """Judge whether answers per second are at least `factor` times those of the best other system."""
    own, other = best(results, workload, ours), best(results, workload, *others)
    if own is None or other is None:
        return None
    ratio = own.rate.median / other.rate.median
    rates = f"{own.rate.median:,.0f} against {other.rate.median:,.0f} requests/s of {other.system}"
    return f"{ratio:.2f} × ({rates})", ratio >= factor


def _quicker(results: Results, workload: str, ours: str, factor: float, *others: str) -> Found | None:
    """Judge whether the median latency is at most `factor` times the lowest of the others."""
    own, other = best(results, workload, ours), _lowest(results, workload, "p50_ms", others)
    if own is None or other is None:
        return None
    mine, theirs = own.latency("p50_ms").median, other.latency("p50_ms").median
    text = f"{mine / theirs:.2f} × ({mine:.2f} ms against {theirs:.2f} ms of {other.system})"
    return text, mine <= factor * theirs


def _tail(results: Results) -> Found | None:
    own, other = best(results, "linear-64", OURS), _lowest(results, "linear-64", "p99_ms", PEERS)
    if own is None or other is None:
        return None
    mine, theirs = own.latency("p99_ms").median, other.latency("p99_ms").median
    return f"{mine:.1f} ms against {theirs:.1f} ms of {other.system}", mine < theirs


def _lowest(results: Results, workload: str, latency: str, systems: Sequence[str]) -> Row | None:
    found = [row for row in rows(results, workload) if row.system in systems]
    return min(found, key=lambda row: row.latency(latency).median, default=None)


def _features(results: Results) -> Found | None:
    off, on = best(results, "features-off", OURS), best(results, "features-on", OURS)
    if off is None or on is None:
        return None
    ratio = on.rate.median / off.rate.median
    return f"{ratio:.2f} × ({on.rate.median:,.0f} against {off.rate.median:,.0f} requests/s)", ratio >= 0.6


def _hits(results: Results) -> Found | None:
    row, one = best(results, "many", OURS), best(results, "many-one", OURS)
    hits = [record.extra["hit_p50_ms"] for record in row.records if "hit_p50_ms" in record.extra] if row else []
    if one is None or not hits:
        return None
    hit, alone = statistics.median(hits), one.latency("p50_ms").median
    return f"{hit / alone:.2f} × (p50 {hit:.1f} ms against {alone:.1f} ms)", hit <= 1.3 * alone


def _lost(row: Row) -> Found:
    requests = sum(record.figures.requests for record in row.records if record.figures)
    return f"{row.errors} of {requests:,}", row.errors == 0


def _budget(row: Row) -> Found:
    most = max(record.extra["most_bytes"] for record in row.records)
    budget = row.records[0].extra["budget_bytes"]
    ready = max(record.extra["ready"][1] for record in row.records)
    text = f"at most {most / MEGABYTE:.0f} of {budget / MEGABYTE:.0f} MB, {ready} models"
    return text, 0 < most <= budget


def _memory(row: Row, kind: str, most: int) -> Found:
    found = row.memory(kind).most / MEGABYTE
    return f"{found:,.0f} MB", 0 < found <= most


def _start(row: Row) -> Found:
    return f"{row.start_s.median:.0f} s", row.start_s.median <= 45
