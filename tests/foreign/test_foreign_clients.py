"""Clients that users already have, unchanged, against the running platform."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.foreign.environment import clients_python
from tests.platform import ROOT, Platform

pytestmark = pytest.mark.ray


def test_tritonclient_works_over_http_and_grpc(platform: Platform) -> None:
    done = subprocess.run(
        [clients_python(), ROOT / "tests/foreign/triton_checks.py", "127.0.0.1:8000", "127.0.0.1:9000"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 30
    faults = [f"{name}\n{fault}" for name, fault in results if fault]
    assert not faults, "\n\n".join(faults)
