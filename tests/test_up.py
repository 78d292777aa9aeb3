"""`ml-serve up`: what it leaves behind, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
import psutil
import pytest
from mlflow.deployments import get_deploy_client

from app.adapters.access.keys import create_key, revoke_key
from app.demo import COMMODITIES, SERVICE
from app.oip import inference_pb2 as pb
from ml_serve_client import ApiError, Client
from tests.collector import collecting
from tests.grpc_stub import make_stub
from tests.platform import DEMO, PORTS, ROOT, URL, Platform, leftovers, listening, remaining

pytestmark = pytest.mark.ray

T = TypeVar("T")

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
    create_key(platform.home / "keys.json", "first", ["observe"])
    platform.start(ML_SERVE_AUTH__MODE="api-key")  # for the next test
    assert set(before) & set(leftovers()) == set()
    assert httpx.get(f"{URL}/readyz", timeout=60).status_code == 200


def test_callers_need_a_key_of_the_file(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}
    with Client(URL) as nobody, pytest.raises(ApiError, match="credentials are missing"):
        nobody.predict(DEMO, row)
    entry, key = create_key(platform.home / "keys.json", "desk", ["predict"], [f"{DEMO[:5]}*"])
    with Client(URL, api_key=key) as client:
        expected = _when_read(lambda: client.predict(DEMO, row)).predictions
        with pytest.raises(ApiError, match="needs the scope 'manage'"):
            client.load(DEMO)
        with pytest.raises(ApiError, match="may not use the model 'others'"):
            client.predict("others", row)
    monkeypatch.setenv("ML_SERVE_API_KEY", key)
    shown = subprocess.run(
        [CLI, "predict", DEMO, json.dumps(row), "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(shown.stdout)["predictions"] == expected
    assert get_deploy_client(f"ml-serve:{URL}").predict(DEMO, [row])["predictions"] == expected
    with grpc.insecure_channel("127.0.0.1:9000") as channel:
        ready = partial(make_stub(channel).ModelReady, pb.ModelReadyRequest(name=DEMO), timeout=30)
        assert ready(metadata=[("authorization", f"Bearer {key}")]).ready
        with pytest.raises(grpc.RpcError) as caught:
            ready()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert httpx.get(f"{URL}/metrics").status_code == 401
    assert httpx.get(f"{URL}/docs").status_code == 200
    assert httpx.get("http://127.0.0.1:8000/livez", headers={"host": "evil.example"}).status_code == 200
    revoke_key(platform.home / "keys.json", entry.id)
    with Client(URL, api_key=key) as client:
        _until_refused(lambda: client.predict(DEMO, row))


def _when_read(call: Callable[[], T]) -> T:
    """Return what the call returns once the gateway knows the new key."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except ApiError as error:
            if error.status != 401 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _until_refused(call: Callable[[], object]) -> None:
    def repeat() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            call()
            time.sleep(0.2)

    with pytest.raises(ApiError, match="not valid"):
        repeat()


def test_only_this_machine_is_served_unless_callers_are_known(platform: Platform, tmp_path: Path) -> None:
    outside = next(
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET and not address.address.startswith("127.")
    )
    for port in (8000, 9000):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((outside, port), 5)
    done = up(tmp_path, ML_SERVE_HOST="0.0.0.0")
    assert done.returncode == 1
    assert "auth.open=true" in done.stderr


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


def test_logs_are_json_and_a_trace_crosses_the_processes(platform: Platform) -> None:
    platform.stop()
    with collecting() as collector:
        platform.start(
            ML_SERVE_LOG_FORMAT="json",
            ML_SERVE_LOG_LEVEL="debug",
            ML_SERVE_TRACES__ENDPOINT=collector.url,
            ML_SERVE_TRACES__SAMPLE_RATIO="0",
        )
        body = {
            "model_name": DEMO,
            "use_feature_store": True,
            "feature_service": SERVICE,
            "entity_id": next(iter(COMMODITIES)),
        }
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "traced"}
        assert httpx.post(f"{URL}/serve", json=body, headers=headers, timeout=60).status_code == 200
        assert httpx.post(f"{URL}/serve", json=body, timeout=60).status_code == 200
        names = {"POST /serve", "features", "read", "queue", "call", "predict"}
        collector.wait(lambda: {span.name for span in collector.spans} >= names)
    assert {span.trace for span in collector.spans} == {trace}
    assert {span.service for span in collector.spans} == {
        "ml-serve-gateway",
        "ml-serve-features",
        "ml-serve-pool-default",
    }
    lines = [json.loads(line) for file in serve_logs("replica_*.log") for line in file.read_text().splitlines()]
    assert {"ml-serve_Gateway", "ml-serve_Features", "ml-serve_Releases", "ml-serve_ModelPool-default"} <= {
        line.get("deployment") for line in lines
    }
    (line,) = [line for line in lines if line.get("trace_id") == trace]
    assert (line["model"], line["request_id"], line["result"]) == (DEMO, "traced", 200)
    assert {"read_ms", "features_ms", "queue_ms", "call_ms", "write_ms"} <= line.keys()
    told = [json.loads(text) for text in platform.output().splitlines() if text.startswith("{")]
    assert "Ctrl-C stops everything." in [line["message"] for line in told]


def serve_logs(pattern: str) -> list[Path]:
    """The log files of the running platform."""
    return [*Path(f"/tmp/ml-serve-{os.getuid()}/ray/session_latest/logs/serve").glob(pattern)]


def test_ctrl_c_leaves_nothing(platform: Platform) -> None:
    """The last one of these tests, since it does not start the platform again. `tests.faults` starts one at once."""
    platform.stop(signal.SIGINT)
    assert remaining() == []
    assert [port for port in PORTS if listening(port)] == []
    assert "Traceback" not in platform.output()
