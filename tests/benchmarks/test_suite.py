"""The benchmarks report correct figures, judge their targets, and run the systems that they name."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks import dialects, encodings, load, many
from benchmarks.bench import choose
from benchmarks.dialects import Request
from benchmarks.load import Figures, Sample
from benchmarks.models import COLUMNS, ModelData
from benchmarks.paired import PAIRABLE, ratio
from benchmarks.record import Record, Results
from benchmarks.report import cells
from benchmarks.summary import Spread, best, rows
from benchmarks.systems import ALL
from benchmarks.targets import judge
from benchmarks.workloads import ALL_WORKLOADS
from tests.fakes import make_fakes, total
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
DATA = ModelData("linear", "linear", Path("/models/linear"), COLUMNS, np.zeros((1, 3)), np.zeros(1))
GOOD = {"asked": 10, "failed": 0, "wrong": 0, "first": None}


def record(system: str, workload: str, turn: int, **figures: Any) -> Record:
    return Record(system, workload, "any", turn, 1.0, checks=GOOD, figures=replace(FIGURES, **figures))


def results(*records: Record) -> Results:
    return Results("2026-01-01", {}, 3, 6.0, ["linear-64"], [], records=list(records))


def test_a_row_has_the_median_and_the_range_of_its_rounds() -> None:
    found = results(*(record("ml-serve", "linear-64", turn, rate=rate) for turn, rate in enumerate((300, 100, 150))))
    (row,) = rows(found, "linear-64")
    assert row.rate == Spread(150, 100, 300)


def test_ratios_are_to_the_best_peer() -> None:
    found = results(
        record("ml-serve", "linear-64", 0, rate=400),
        record("ml-serve-gateway", "linear-64", 0, rate=800),
        record("mlserver", "linear-64", 0, rate=200),
        record("fastapi-1", "linear-64", 0, rate=100),
    )
    assert [(line[0], line[4]) for line in cells(found, "linear-64")] == [
        ("ml-serve-gateway", "4.00"),
        ("ml-serve", "2.00"),
        ("mlserver", "1.00"),
        ("fastapi-1", "0.50"),
    ]


def test_without_peers_ratios_are_to_the_other_checkout() -> None:
    found = results(record("ml-serve", "linear-64", 0, rate=300), record("before", "linear-64", 0, rate=200))
    assert [(line[0], line[4]) for line in cells(found, "linear-64")] == [("ml-serve", "1.50"), ("before", "1.00")]


def test_another_checkout_is_no_peer_of_the_targets() -> None:
    found = results(
        record("ml-serve", "linear-64", 0, rate=260),
        record("before", "linear-64", 0, rate=500),
        record("mlserver", "linear-64", 0, rate=100),
    )
    verdicts = {verdict.target: verdict for verdict in judge(found)}
    assert verdicts["linear, 64 connections: at least 2.5 × the best peer"].met is True


@pytest.mark.parametrize("has_own_environment", [True, False])
def test_another_checkout_runs_its_own_code_and_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_own_environment: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    if has_own_environment:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (system,) = choose(["before"], tmp_path)
    programs = tmp_path / ".venv" / "bin" if has_own_environment else Path(sys.executable).parent
    assert system.command_in("linear", DATA) == [f"{programs}/ml-serve", "up", "--no-demo"]
    assert system.command_in("start", DATA) == [f"{programs}/ml-serve", "up"]
    assert system.folder == tmp_path
    variables = system.environment_variables("linear", DATA)
    assert variables["PYTHONPATH"] == f"{tmp_path}:{tmp_path}/clients/python/src"
    assert variables["PATH"].startswith(f"{programs}:")
    assert variables["ML_SERVE_PRELOAD"] == "linear"
    assert variables["ML_SERVE_HTTP_PORT"] == str(system.port)


def test_two_checkouts_differ_in_code_ports_and_homes_alone(tmp_path: Path) -> None:
    mine, other = choose(["ml-serve", "before"], tmp_path)
    for session in ("linear", "many", "features", "start"):
        one, two = (system.environment_variables(session, DATA) for system in (mine, other))
        differing = {name for name in one if one[name] != two.get(name)}
        assert one.keys() == two.keys()
        assert {name for name in differing if not name.endswith("_PORT")} <= {"ML_SERVE_HOME", "PYTHONPATH", "PATH"}
        assert one["ML_SERVE_HOME"] != two["ML_SERVE_HOME"]
    for workload in ALL_WORKLOADS:
        assert ("before" in workload.systems) is ("ml-serve" in workload.systems)
        assert workload.dialects(mine) == workload.dialects(other)


def test_the_code_of_another_checkout_is_imported(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("")
    (system,) = choose(["before"], tmp_path)
    command = [str(system.bin / "python"), "-c", "import app; print(app.__file__)"]
    variables = {**os.environ, **system.environment_variables("linear", DATA)}
    found = subprocess.run(command, env=variables, cwd=system.folder, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(tmp_path / "app" / "__init__.py")


def test_all_systems_run_without_another_checkout() -> None:
    assert [system.name for system in choose([], None)] == [system.name for system in ALL if system.name != "before"]


@pytest.mark.parametrize(("name", "words"), [("before", "BEFORE="), ("nobody", "unknown system 'nobody'")])
def test_a_system_that_cannot_run_is_refused(name: str, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        choose([name], None)


def test_a_target_is_met_missed_or_not_measured() -> None:
    found = results(
        record("ml-serve", "linear-64", 0, rate=256, p99_ms=9), record("mlserver", "linear-64", 0, rate=100)
    )
    verdicts = {verdict.target: verdict for verdict in judge(found)}
    narrow = verdicts["linear, 64 connections: at least 2.5 × the best peer"]
    assert (narrow.met, narrow.words) == (True, "met by 2.4%")
    missed = verdicts["linear, 64 connections: p99 at most the best peer's"]
    assert (missed.met, missed.words) == (False, "missed")
    start = verdicts["start with models registered, to the first answer: at most 10 s"]
    assert (start.met, start.words) == (True, "met")
    unknown = verdicts["linear, 8 connections: at least 1.2 × the best peer"]
    assert (unknown.met, unknown.words) == (None, "not measured")


def test_a_dialect_is_compared_with_serve() -> None:
    rates = {dialects.SERVE: 1000, dialects.V1: 900, dialects.V2_COLUMNS: 700, dialects.GRPC: 650}
    found = results(
        *(replace(record("ml-serve", "dialects-64", 0, rate=rate), dialect=one.name) for one, rate in rates.items())
    )
    words = {verdict.target.partition(",")[0]: verdict.words for verdict in judge(found) if "/serve" in verdict.target}
    assert words["/v1"] == "met"
    assert words["v2 gRPC"] == "met"
    assert [verdict.met for verdict in judge(found) if verdict.target.startswith("v2 JSON")] == [None, False]


def test_wrong_answers_of_the_checks_count_as_errors() -> None:
    broken = replace(record("ml-serve", "linear-64", 0, errors=2), checks={**GOOD, "failed": 1, "wrong": 3})
    row = best(results(broken), "linear-64", "ml-serve")
    assert row is not None
    assert row.errors == 6


def test_figures_come_from_single_answers() -> None:
    samples = [Sample(0, at=float(turn), seconds=0.001 * (turn + 1), ok=turn != 9) for turn in range(10)]
    found = load.summarize(samples)
    assert (found.requests, found.errors) == (10, 1)
    assert found.p50_ms == pytest.approx(5.5)
    assert found.rate == pytest.approx(9 / 9.01)


async def test_at_a_fixed_rate_waiting_for_a_connection_counts() -> None:
    """One connection takes 20 ms per request, and 100 requests arrive per second: a queue builds up."""
    connection = asyncio.Lock()

    async def send(request: Request) -> bool:
        async with connection:
            await asyncio.sleep(0.02)
        return True

    samples = await load.open_loop(send, [Request("/", b"")], 1, 0.2, 100)
    assert len(samples) == 20
    assert max(sample.seconds for sample in samples) > 0.1


def test_every_workload_has_known_systems_and_their_dialects() -> None:
    known = {system.name: system for system in ALL}
    for workload in ALL_WORKLOADS:
        assert workload.systems
        assert all(workload.dialects(known[name]) for name in workload.systems)


@pytest.mark.parametrize("system", ALL, ids=lambda system: system.name)
def test_one_row_is_encoded_in_the_dialect_of_each_system(system: object) -> None:
    found = next(one for one in ALL if one is system)
    request = found.dialect.encode("linear", COLUMNS, np.array([[75.5, 3.2, 1.18]]))
    assert request.path.startswith("/")
    assert b"75.5" in request.body
    assert b"\n" not in request.body  # a line of the file that wrk reads


async def test_the_gateway_answers_every_encoding() -> None:
    found = await encodings.measure(rounds=1)
    assert len(found) == 7
    assert all(found.values())


async def test_a_slow_answer_does_not_block_the_event_loop() -> None:
    fakes = make_fakes({"sum": total("a")})
    fakes.runner.delay_s = 0.5  # longer than the gateway waits before it watches for a disconnect
    body = ("/v1/models/sum:predict", b'{"instances": [{"a": 1.0}]}', {"content-type": "application/json"})
    assert await encodings.post(fakes, body) == 200


def test_no_two_systems_share_a_port() -> None:
    ports = [port for system in ALL for port in system.ports]
    assert len(ports) == len(set(ports))


def test_popular_models_get_most_requests() -> None:
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


def test_the_ratio_of_pairs_has_an_interval() -> None:
    found = ratio([(110.0, 100.0), (55.0, 50.0), (121.0, 100.0), (100.0, 100.0)])
    assert found.value == pytest.approx((1.1 * 1.1 * 1.21 * 1.0) ** 0.25)
    assert found.low < 1.1 < found.high
    same = ratio([(3.0, 2.0)] * 5)
    assert (same.low, same.value, same.high) == pytest.approx((1.5, 1.5, 1.5))


def test_workloads_of_one_row_in_a_closed_loop_can_be_compared() -> None:
    assert {"linear-1", "linear-8", "linear-64", "forest-64", "many-one"} <= PAIRABLE.keys()
    assert PAIRABLE.keys().isdisjoint({"linear-300rps", "table-json", "many", "start"})
