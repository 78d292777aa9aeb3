"""`MemoryBound`: an allocation beyond it fails, and a process that stays full says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.deployments.memory_bound import data_bytes, total_bytes
from tests.platform import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the bound")

PROGRAM = """
from app.deployments.memory_bound import MemoryBound, data_bytes
from app.errors import PoolUnavailable
bound = MemoryBound(data_bytes() + 100 * 2**20)
bound.check()
print(bound.is_full)
try:
    bytearray(200 * 2**20)
except MemoryError:
    print("MemoryError")
kept = [bytearray(2**20) for _ in range(95)]
print(bound.is_full)
try:
    bound.check()
except PoolUnavailable as error:
    print(error)
del kept
print(bound.is_full)
"""


def test_what_goes_beyond_the_bound_fails() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    first, error, full, told, last = done.stdout.splitlines()
    assert (first, error, full, last) == ("False", "MemoryError", "True", "False")
    assert "process_bytes" in told


def test_memory_in_use_stays_usable() -> None:
    code = "from app.deployments.memory_bound import MemoryBound; MemoryBound(1); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"


@pytest.mark.parametrize("name", ["memory/memory.limit_in_bytes", "memory.max"])
def test_the_limit_of_a_container_counts(tmp_path: Path, name: str) -> None:
    machine = psutil.virtual_memory().total
    assert total_bytes(tmp_path) == machine
    limit = tmp_path / name
    limit.parent.mkdir(exist_ok=True)
    limit.write_text("max\n")
    assert total_bytes(tmp_path) == machine
    limit.write_text(f"{machine // 2}\n")
    assert total_bytes(tmp_path) == machine // 2


def test_data_is_less_than_all_memory() -> None:
    assert 0 < data_bytes() < psutil.virtual_memory().total
