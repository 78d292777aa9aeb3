from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from app.adapters.mlflow.memory import NOISE_BYTES, MemoryGrowth

LARGE = 64 * 1024**2


def large() -> object:
    return np.ones(LARGE, np.uint8)


def test_a_model_larger_in_memory_than_on_disk_is_measured() -> None:
    _, nbytes = MemoryGrowth().measure(large, 1000)
    assert LARGE / 2 < nbytes < 2 * LARGE


def test_a_small_model_has_the_size_of_its_artifacts() -> None:
    assert MemoryGrowth().measure(lambda: "model", 1000) == ("model", 1000)


def test_a_model_is_never_smaller_than_its_artifacts() -> None:
    assert MemoryGrowth().measure(large, 10 * LARGE)[1] == 10 * LARGE


def test_libraries_that_a_load_imports_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []

    def load() -> str:
        if not kept:
            monkeypatch.setitem(sys.modules, "a_large_library", ModuleType("a_large_library"))
            kept.append(large())
        return "model"

    assert MemoryGrowth().measure(load, 1000) == ("model", 1000)


def test_a_failed_load_does_not_block_the_next_measurement() -> None:
    growth = MemoryGrowth()

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        growth.measure(fail, 1)
    assert growth.measure(lambda: 1, 1) == (1, 1)


def test_overlapping_loads_are_not_measured() -> None:
    growth = MemoryGrowth()
    begun, end = threading.Event(), threading.Event()
    found: list[int] = []

    def slow() -> object:
        begun.set()
        assert end.wait(30)
        return large()

    thread = threading.Thread(target=lambda: found.append(growth.measure(slow, 500)[1]))
    thread.start()
    assert begun.wait(30)
    assert growth.measure(lambda: "model", 1000) == ("model", 1000)
    end.set()
    thread.join()
    assert found == [500]
    assert NOISE_BYTES < LARGE


def test_memory_freed_by_the_load_does_not_count() -> None:
    # In a process whose allocator keeps what is freed, as those of the platform do.
    code = (
        "from app.adapters.mlflow.memory import MemoryGrowth\n"
        "def load():\n"
        "    blocks = [b'1' * 1024**2 for _ in range(48)]\n"
        "    return len(blocks)\n"
        "print(MemoryGrowth().measure(load, 1000))"
    )
    kept = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **kept}
    )
    assert done.stdout.strip() == "(48, 1000)"
