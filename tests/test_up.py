"""`ml-serve up`: what it leaves behind, and how it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.platform import PORTS, ROOT, URL, Platform, leftovers, listening, remaining

pytestmark = pytest.mark.ray

CLI = str(Path(sys.executable).parent / "ml-serve")


def up(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLI, "up", "--no-demo"],
        cwd=ROOT,
        env={**os.environ, "ML_SERVE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_next_start_ends_the_processes_of_an_unclean_run(platform: Platform) -> None:
    platform.stop(signal.SIGKILL)
    assert (before := leftovers()) != []
    platform.start()
    assert set(before) & set(leftovers()) == set()
    assert httpx.get(f"{URL}/readyz", timeout=60).status_code == 200


def test_a_port_that_is_taken_is_named_with_its_holder(platform: Platform, tmp_path: Path) -> None:
    done = up(tmp_path)
    assert done.returncode == 1
    assert "8000" in done.stderr
    assert "haproxy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "ML_SERVE_FEAST_REPO": "/nowhere"},
            ["registry", "feature_store.yaml"],
        ),
        ({"ML_SERVE_HTP_PORT": "1"}, ["did you mean ML_SERVE_HTTP_PORT"]),
    ],
)
def test_a_failed_check_is_one_line_and_not_a_traceback(
    environment: dict[str, str], words: list[str], tmp_path: Path, platform: Platform
) -> None:
    ports = {
        "ML_SERVE_HTTP_PORT": "18000",
        "ML_SERVE_GRPC_PORT": "19000",
        "ML_SERVE_HAPROXY_STATS_PORT": "18404",
        "ML_SERVE_HAPROXY_METRICS_PORT": "19101",
    }
    done = up(tmp_path, **ports, **environment)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True)), lines
    assert "Traceback" not in done.stderr + done.stdout


def test_ctrl_c_leaves_nothing(platform: Platform) -> None:
    """The last one of these tests, since it does not start the platform again. `tests.faults` starts one at once."""
    platform.stop(signal.SIGINT)
    assert remaining() == []
    assert [port for port in PORTS if listening(port)] == []
    assert "Traceback" not in platform.output()
