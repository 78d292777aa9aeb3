"""What Ray reads from the environment, set before Ray is imported and before its first process starts.

Nothing here imports ray: its constants are read once, at import.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import psutil

from app.api.http.serve_middleware import IMPORT_PATH as FRONT
from app.settings import Settings

# Messages between deployments: batches are bounded by bytes well below this.
_GRPC_MESSAGE_BYTES = 256 * 1024**2
_PROXY_BUFFER_BYTES = 64 * 1024
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2)}
"""Where glibc arrives by itself once it has freed a block of 32 MiB, from the start: what a batch of some hundred
kilobytes is packed into, sent from and received in is used again. Else the kernel clears each of its pages anew, which
takes ten times as long as to fill them; see `docs/adr/0014-memory-and-warnings.md`."""
_TERMINATE_S = 5.0
_RESEND = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response", "RAY_SERVE_HAPROXY_RETRIES": "1"}
"""A request whose gateway replica has died without a byte of an answer goes to another one, once: see
`docs/operate/failures.md`. Not where models live in the gateways: what has killed one would kill two."""


def ray_environment(settings: Settings, run_folder: Path) -> dict[str, str]:
    """Variables for a Ray that is started here.

    HAProxy in front, and replicas that run user code on their own loop with gRPC between them: on a prototype six
    to seven times the default mode's requests per second on a trivial route, and two to three times where models are
    called. See `docs/adr/0001-haproxy-mode.md`.

    Args:
        run_folder: what `begin_run` made, for the load balancer's files.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray runs its workers at nice 15: whatever else the machine does would come before the callers.
        "RAY_worker_niceness": "0",
        # Departures and deadlines of callers are watched by the gateway itself, at a fraction of the cost.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": FRONT,
        # Nothing is logged per request, and what is logged shall be seen at once.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_GRPC_MESSAGE_BYTES),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(settings.limits.grpc_message_bytes),
        # HAProxy reads and writes in buffers of 16 KiB otherwise: gRPC calls of 800 KB went from 111 to 148 a second.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_PROXY_BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(settings.haproxy_stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(settings.haproxy_metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_folder / "metrics.sock"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(settings.drain_s),
        **({} if settings.gateway_pools else _RESEND),
        **_ALLOCATOR,
        **quiet_environment(),
        **settings.storage_environment(),
    }


def quiet_environment() -> dict[str, str]:
    """No process of ours tells anybody outside about its use."""
    return {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "FEAST_USAGE": "False"}


def apply(environment: dict[str, str]) -> None:
    """Set the variables of this process, which Ray's processes inherit. What the operator has set stays."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def begin_run() -> Path:
    """Make the folder of a run. Its path is short, since it holds sockets."""
    return Path(tempfile.mkdtemp(prefix="ml-serve-"))


def end_run(run_folder: Path, session: str | None) -> None:
    """End every process of a run that outlived it, HAProxy first among them, and remove its folder.

    They are told by what they were started with or have open: files in the run's folder, or logs of its Ray session.
    No other process is touched.

    Args:
        session: name of the Ray session, where one was begun.
    """
    marks = [f"{run_folder}/", *([f"/{session}/"] if session else [])]
    strays = [process for process in psutil.process_iter() if _belongs_to(process, marks)]
    for process in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(strays, timeout=_TERMINATE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_TERMINATE_S)
    shutil.rmtree(run_folder, ignore_errors=True)


def _belongs_to(process: psutil.Process, marks: list[str]) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        texts = [*process.cmdline(), *(file.path for file in process.open_files())]
    except (psutil.Error, OSError):
        return False
    return any(mark in text for mark in marks for text in texts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
