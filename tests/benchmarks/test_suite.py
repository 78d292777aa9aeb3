"""The benchmarks measure what they say: figures over rounds, targets, dialects, and peers as they are locked."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import encodings, load, many
from benchmarks.dialects import Request
from benchmarks.load import Figures, Sample
from benchmarks.models import COLUMNS
from benchmarks.record import Record, Results
from benchmarks.report import cells
from benchmarks.summary import Spread, best, rows
from benchmarks.systems import ALL
from benchmarks.targets import judge
from benchmarks.workloads import ALL_WORKLOADS
from tests.platform import ROOT

FIGURES = Figures(
    requests=100,
    seconds=1.0,
    rate=100.0,
    p50_ms=1.0,
    p90_ms=2.0,
    p99_ms=3.0,
    p999_ms=4.0,
    max_ms=5.0,
    errors=0,
)
GOOD = {"asked": 10, "failed": 0, "wrong": 0, "first": None}


def record(system: str, workload: str, turn: int, **figures: Any) -> Record:
    return Record(system, workload, "any", turn, 1.0, checks=GOOD, figures=replace(FIGURES, **figures))


def results(*records: Record) -> Results:
    return Results("2026-01-01", {}, 3, 6.0, ["linear-64"], [], records=list(records))


def test_a_row_has_the_median_of_its_rounds_and_how_far_they_reach() -> None:
    found = results(*(record("ours", "linear-64", turn, rate=rate) for turn, rate in enumerate((300, 100, 150))))
    (row,) = rows(found, "linear-64")
    assert row.rate == Spread(150, 100, 300)


def test_ratios_are_to_the_best_peer_and_not_to_our_own_other_placement() -> None:
    found = results(
        record("ours", "linear-64", 0, rate=400),
        record("ours-gateway", "linear-64", 0, rate=800),
        record("mlserver", "linear-64", 0, rate=200),
        record("fastapi-1", "linear-64", 0, rate=100),
    )
    assert [(line[0], line[4]) for line in cells(found, "linear-64")] == [
        ("ours-gateway", "4.00"),
        ("ours", "2.00"),
        ("mlserver", "1.00"),
        ("fastapi-1", "0.50"),
    ]


def test_a_target_is_met_missed_or_not_measured() -> None:
    found = results(record("ours", "linear-64", 0, rate=190, p99_ms=9), record("mlserver", "linear-64", 0, rate=100))
    verdicts = {verdict.target: verdict for verdict in judge(found)}
    assert verdicts["linear, 64 connections: at least 1.8 × the best peer"].met is True
    assert verdicts["linear, 64 connections: p99 below every peer's"].met is False
    assert verdicts["linear, 64 connections: at least 12 × textbook Ray Serve"].met is None


def test_wrong_answers_beside_the_load_count_as_errors() -> None:
    broken = replace(record("ours", "linear-64", 0, errors=2), checks={**GOOD, "failed": 1, "wrong": 3})
    row = best(results(broken), "linear-64", "ours")
    assert row is not None
    assert row.errors == 6


def test_figures_come_from_single_answers() -> None:
    samples = [Sample(0, at=float(turn), seconds=0.001 * (turn + 1), ok=turn != 9) for turn in range(10)]
    found = load.summarise(samples)
    assert (found.requests, found.errors) == (10, 1)
    assert found.p50_ms == pytest.approx(5.5)
    assert found.rate == pytest.approx(9 / 9.01)


async def test_at_a_fixed_rate_the_wait_for_a_connection_counts() -> None:
    """One connection that takes 20 ms, and 100 requests a second: the last ones wait for all before them."""
    connection = asyncio.Lock()

    async def send(request: Request) -> bool:
        async with connection:
            await asyncio.sleep(0.02)
        return True

    samples = await load.open_loop(send, [Request("/", b"")], 1, 0.2, 100)
    assert len(samples) == 20
    assert max(sample.seconds for sample in samples) > 0.1


def test_every_workload_has_systems_that_exist_and_a_dialect_for_each() -> None:
    known = {system.name: system for system in ALL}
    for workload in ALL_WORKLOADS:
        assert workload.systems
        assert all(workload.dialects(known[name]) for name in workload.systems)


@pytest.mark.parametrize("system", ALL, ids=lambda system: system.name)
def test_one_row_is_asked_in_every_systems_own_dialect(system: object) -> None:
    found = next(one for one in ALL if one is system)
    request = found.dialect.encode("linear", COLUMNS, np.array([[75.5, 3.2, 1.18]]))
    assert request.path.startswith("/")
    assert b"75.5" in request.body
    assert b"\n" not in request.body  # a line of the file that wrk reads


async def test_every_encoding_is_answered_by_the_gateways_application() -> None:
    found = await encodings.measure(rounds=1)
    assert len(found) == 7
    assert all(found.values())


def test_no_two_systems_share_a_port() -> None:
    ports = [port for system in ALL for port in system.ports]
    assert len(ports) == len(set(ports))


def test_the_most_chosen_models_are_asked_most() -> None:
    drawn = many.choices(100, 5000)
    counts = [drawn.count(model) for model in range(100)]
    assert counts[0] == max(counts)
    assert sum(counts[:30]) > 0.7 * len(drawn)


PEERS = sorted({system.environment for system in ALL if system.environment})


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_is_locked_with_hashes_and_without_urls(peer: str) -> None:
    text = (ROOT / "requirements" / f"peers-{peer}.txt").read_text()
    pins = re.findall(r"^[\w.\[\]-]+==\S+", text, re.MULTILINE)
    assert len(pins) > 20
    assert len(re.findall(r"==.*\\\n    --hash=sha256:", text)) == len(pins)
    assert "://" not in text


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_has_the_models_libraries_at_our_versions(peer: str) -> None:
    def versions(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        return set(re.findall(r"^(?:mlflow|numpy|pandas|scikit-learn|scipy)==[^\s;]+", text, re.MULTILINE))

    assert versions(f"peers-{peer}") == versions("runtime")
