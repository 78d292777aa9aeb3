import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.deployments.environment import (
    apply,
    begin_run,
    end_run,
    protect_token,
    quiet_environment,
    ray_environment,
    session_folder,
)
from app.errors import StartupError
from app.settings import PoolSettings, Settings


def test_variables_of_the_operator_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", "7")
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    apply(ray_environment(Settings(), Path("/tmp/run")))
    assert os.environ["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] == "7"
    assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_haproxy_retries_only_if_no_model_can_kill_a_gateway() -> None:
    resent = ray_environment(Settings(), Path("/tmp/run"))
    assert (resent["RAY_SERVE_HAPROXY_RETRY_ON"], resent["RAY_SERVE_HAPROXY_RETRIES"]) == (
        "conn-failure empty-response",
        "1",
    )
    inside = Settings(pools={"inside": PoolSettings(placement="gateway")})
    assert not any("RETR" in name for name in ray_environment(inside, Path("/tmp/run")))


def test_no_outgoing_connection_can_take_the_ports_of_serve() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(20):
        variables = ray_environment(Settings(), Path("/tmp/run"))
        ports = [int(variables[f"RAY_SERVE_FALLBACK_PROXY_{kind}_PORT"]) for kind in ("HTTP", "GRPC")]
        assert max(ports) < lowest


def test_telemetry_of_libraries_is_off() -> None:
    assert quiet_environment() == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "FEAST_USAGE": "False",
    }


def sleeper(*arguments: str, code: str = "pass") -> subprocess.Popen[bytes]:
    """A process that sleeps; it has said something once it has done `code`."""
    line = f"import signal, sys, time; {code}; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", line, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_only_processes_of_the_run_are_ended(tmp_path: Path) -> None:
    folder = begin_run()
    logs = tmp_path / "session_1_1" / "logs"
    logs.mkdir(parents=True)
    other = sleeper(f"{folder}-not")
    ours = [
        sleeper("-f", f"{folder}/haproxy.cfg"),
        sleeper(f"{folder}/x", code="signal.signal(15, signal.SIG_IGN)"),
        sleeper(str(logs / "agent.log"), code="log = open(sys.argv[1], 'w')"),
    ]
    try:
        end_run(folder, "session_1_1")
        assert [process.args for process in ours if process.poll() is None] == []
        assert other.poll() is None
        assert not folder.exists()
    finally:
        for process in (other, *ours):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_sessions_are_kept_where_only_this_user_can_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = session_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert session_folder() == folder
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # another user has made that folder
    other = Path("/tmp/ml-serve-4000000")
    try:
        with pytest.raises(StartupError, match="must be a folder of this user with mode 700"):
            session_folder()
        other.rmdir()
        other.symlink_to(folder)
        with pytest.raises(StartupError):
            session_folder()
    finally:
        other.unlink()


def test_the_token_of_a_local_ray_is_for_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    protect_token()  # there is none yet
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("x")
    token.chmod(0o644)
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
