import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.deployments.environment import apply, begin_run, end_run, quiet_environment, ray_environment
from app.settings import Settings


def test_what_the_operator_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", "7")
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    apply(ray_environment(Settings(), Path("/tmp/run")))
    assert os.environ["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] == "7"
    assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_nothing_of_ours_tells_anybody_about_its_use() -> None:
    assert quiet_environment() == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "FEAST_USAGE": "False",
    }


def test_only_processes_of_the_run_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    other = subprocess.Popen(sleep)
    folder = begin_run()
    ours = subprocess.Popen(sleep)
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    try:
        end_run(folder)
        assert not psutil.pid_exists(ours.pid)
        assert not psutil.pid_exists(stubborn.pid)
        assert other.poll() is None
        assert not folder.exists()
    finally:
        stubborn.stdout.close()
        for process in (other, ours, stubborn):
            process.kill()
            process.wait()
