"""Results of a run, written to a JSON file after each measurement."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Figures
from benchmarks.paths import RESULTS
from benchmarks.processes import Memory


@dataclass(frozen=True)
class Record:
    """One measurement.

    Args:
        dialect: name of the request form.
        turn: the round, from 0.
        start_s: seconds from the system's start to its first correct answer.
        cores: CPU seconds per second that the system used under the load.
        memory: its processes after the load.
        checks: counts of the checks during the load.
        figures: figures of the load; None where only the start was measured.
        extra: further facts, by workload.
    """

    system: str
    workload: str
    dialect: str
    turn: int
    start_s: float
    cores: float = 0.0
    memory: Memory = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Results:
    """All results of a run."""

    date: str
    machine: dict[str, Any]
    rounds: int
    seconds: float
    workloads: list[str]
    systems: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodings: dict[str, float] = field(default_factory=dict)


class Recorder:
    """Add to the results of a run, and write the file each time."""

    def __init__(self, workloads: Sequence[str], systems: Sequence[str], rounds: int, seconds: float) -> None:
        self.results = Results(time.strftime("%Y-%m-%d"), machine(), rounds, seconds, list(workloads), list(systems))
        self.path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
        self._broken: set[str] = set()

    def version(self, system: str, version: str) -> None:
        self.results.versions[system] = version

    def add(self, record: Record) -> None:
        self.results.records.append(record)
        self._write()

    def failed(self, system: str, why: str) -> None:
        """Leave the system out of the rest of the run."""
        self._broken.add(system)
        self.results.failures.append(f"{system}: {why}")
        self._write()

    def failed_session(self, system: str, session: str, turn: int, why: str) -> None:
        """Note that one session did not complete."""
        self.results.failures.append(f"{system}, {session}, round {turn + 1}: {why}")
        self._write()

    def encodings(self, found: dict[str, float]) -> None:
        self.results.encodings = found
        self._write()

    def note(self, text: str) -> None:
        self.results.notes.append(text)
        self._write()

    def is_failed(self, system: str) -> bool:
        return system in self._broken

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(asdict(self.results), indent=1))


def read(path: Path) -> Results:
    """Read the results of an earlier run."""
    found = json.loads(path.read_text())
    found["records"] = [
        Record(**{**one, "figures": one["figures"] and Figures(**one["figures"])}) for one in found["records"]
    ]
    return Results(**found)


def machine() -> dict[str, Any]:
    """Describe this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
