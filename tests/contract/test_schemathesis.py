"""Requests that schemathesis derives from `/openapi.json`, sent to the running platform."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ml_serve_client import Client
from tests.platform import DEMO, ROOT, URL, Platform

pytestmark = pytest.mark.ray

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Models of other tests, some of which raise on purpose or on nulls, have operations of their own once they are loaded:
# of those with a concrete name only the demo's is called, and only its first version. The second one raises on numbers
# that no float of 32 bits holds, so that what moves aliases is called by itself.
MOVES = r"(:promote|:rollback|/traffic)$"
PREDICTS_AND_TELLS = ("--exclude-path-regex", rf"^/v1/models/(?!commodity_price_predictor:|\{{)|{MOVES}")
MOVES_ALIASES = ("--include-path-regex", MOVES)


@pytest.mark.usefixtures("demo_as_before")
@pytest.mark.parametrize("operations", [PREDICTS_AND_TELLS, MOVES_ALIASES], ids=["predicts-and-tells", "moves-aliases"])
def test_no_request_makes_a_server_error_or_an_answer_that_is_not_documented(
    operations: tuple[str, str], platform: Platform, tmp_path: Path
) -> None:
    with Client(URL) as client:  # the demo has operations of its own once it was called
        client.predict(DEMO, {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18})
    schema = subprocess.run(["curl", "-s", f"{URL}/openapi.json"], capture_output=True, text=True, check=True).stdout
    assert f'"/v1/models/{DEMO}:predict"' in schema
    command = [
        f"{ROOT}/.venv/bin/schemathesis", "run", f"{URL}/openapi.json",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "254", "--continue-on-failure",
        # One that is over at once is answered 504, which is documented and yet taken for a fault of the server.
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
