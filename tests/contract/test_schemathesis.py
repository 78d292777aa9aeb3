"""Schemathesis sends requests that it derives from `/openapi.json` to the running platform."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from ml_serve_client import Client
from tests.platform import DEMO, ROOT, URL, Platform

pytestmark = pytest.mark.ray

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Loaded models have their own operations. Models of other tests raise on purpose or on nulls, so only the demo's
# operations run, and only those of its first version: the second raises on numbers that do not fit a 32-bit float.
# Operations that move aliases therefore run apart.
MOVES = r"(:promote|:rollback|/traffic)$"
PREDICT_AND_READ = ("--exclude-path-regex", rf"^/v1/models/(?!commodity_price_predictor:|\{{)|{MOVES}")
MOVE_ALIASES = ("--include-path-regex", MOVES)


@pytest.mark.usefixtures("demo_as_before")
@pytest.mark.parametrize("operations", [PREDICT_AND_READ, MOVE_ALIASES], ids=["predict-and-read", "move-aliases"])
def test_every_response_is_documented_and_no_server_error(
    operations: tuple[str, str], platform: Platform, tmp_path: Path
) -> None:
    with Client(URL) as client:  # the demo gets its own operations after the first call
        client.predict(DEMO, {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18})
    deadline = time.monotonic() + 60
    while f'"/v1/models/{DEMO}:predict"' not in httpx.get(f"{URL}/openapi.json", timeout=60).text:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    command = [
        f"{ROOT}/.venv/bin/schemathesis", "run", f"{URL}/openapi.json",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "254", "--continue-on-failure",
        # A deadline that has passed is a 504, which is documented, but schemathesis takes it for a server error.
        "--header", "x-request-timeout-seconds: 30",
        "--checks", CHECKS, *operations, "--request-timeout", "60",
    ]  # fmt: skip
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr
    (selected,) = re.findall(r"Operations: +([0-9]+) selected", done.stdout)
    assert int(selected) > 3
