"""Environment variables of Ray, which it reads once, when it is imported. So this module does not import Ray."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import psutil

from app.api.http.serve_middleware import IMPORT_PATH as FRONT
from app.errors import StartupError
from app.settings import Settings

PRELOAD = "app.deployments.preload"
"""The module that Ray's processes import first."""
WITHOUT_SERVE = "APP_WITHOUT_SERVE"
"""Set in processes that do not need Serve, and whose libraries may be others than ours."""

# Of messages between deployments. Batches are limited to far fewer bytes.
_GRPC_MESSAGE_BYTES = 256 * 1024**2
_PROXY_BUFFER_BYTES = 64 * 1024
_CONNECTIONS = 8192
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**2)}
"""glibc's own limits after a block of 32 MiB was freed, from the start. Buffers of batches are reused; otherwise the
kernel clears each page again, in ten times the time to fill it. See `docs/adr/0014-memory-and-warnings.md`."""
_PORTS = range(20_000, 30_000)
"""Between the ports of Ray's workers and those of Serve's replicas; Linux gives ports above to outgoing connections."""
_TERMINATE_S = 5.0
_RESEND = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response", "RAY_SERVE_HAPROXY_RETRIES": "1"}
"""HAProxy retries a request once if its gateway replica died without sending a byte. Off if
models live in the gateways: a request that killed one replica would kill a second one. See
`docs/operate/failures.md`."""

MODE = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH")
"""Variables without which a Ray that runs already serves at a fraction of the speed."""


def ray_environment(settings: Settings, run_folder: Path) -> dict[str, str]:
    """Return the variables for a Ray that is started here.

    HAProxy in front, user code on the replicas' own event loop and gRPC between replicas: on a prototype six to seven
    times the requests per second of the default mode on a trivial route, two to three times with a model call. See
    `docs/adr/0001-haproxy-mode.md`.

    Args:
        run_folder: from `begin_run`, for the load balancer's files.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray runs its workers at nice 15, behind everything else on the machine.
        "RAY_worker_niceness": "0",
        "RAY_preload_python_modules": PRELOAD,
        # Ray would end the newest processes until memory suffices, controller and gateways too. The kernel ends the
        # largest one, and `MemoryBound` what a model allocates before that.
        "RAY_memory_monitor_refresh_ms": "0",
        # The gateway watches disconnects and deadlines itself, at a fraction of the cost.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": FRONT,
        # HAProxy would send a line per request to a Python process: 80 µs of CPU to count what replicas count too.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Few lines are logged, none per request: write each at once.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_GRPC_MESSAGE_BYTES),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(settings.limits.grpc_message_bytes),
        # Instead of 16 KiB: gRPC calls of 800 KB went from 111 to 148 per second.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_PROXY_BUFFER_BYTES),
        # Instead of 4,096, which the waiting callers of one slow model can fill.
        "RAY_SERVE_HAPROXY_MAXCONN": str(_most_connections()),
        # Instead of an hour: connections with half a request count towards the most that HAProxy takes.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(settings.connection_idle_s),
        # Instead of ten: three failed checks replace the load balancer, without which nobody is answered.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
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


def _most_connections() -> int:
    """Return how many connections HAProxy may have. It takes up to three descriptors for each, or does not start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if hard == resource.RLIM_INFINITY else max(min(_CONNECTIONS, (hard - 1000) // 3), 500)


def quiet_environment() -> dict[str, str]:
    """Return the variables that turn off the telemetry of libraries."""
    return {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "FEAST_USAGE": "False"}


def apply(environment: dict[str, str]) -> None:
    """Set variables that are not set yet. Ray's processes inherit them."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def session_folder() -> Path:
    """Return the folder below which Ray keeps its sessions, with logs and sockets. Only this user can enter it.

    Everybody can enter and write to Ray's own, `/tmp/ray`. The path is short because it holds sockets.

    Raises:
        StartupError: somebody else made the folder or can enter it.
    """
    folder = Path(f"/tmp/ml-serve-{os.getuid()}")  # noqa: S108 - checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartupError(f"{folder} must be a folder of this user with mode 700; remove it")
    return folder


def protect_token() -> None:
    """Make the token with which processes join a local Ray unreadable for other users.

    Ray creates the file with the umask of its first start, which may have been wider than that of `ml-serve up`.
    """
    with contextlib.suppress(OSError, RuntimeError):  # no file, that of somebody else, or no home
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def begin_run() -> Path:
    """Create the folder of a run. Its path is short, because it holds sockets."""
    return Path(tempfile.mkdtemp(prefix="ml-serve-"))


def end_run(run_folder: Path, session: str | None) -> None:
    """End the processes that outlived a run, such as HAProxy, and remove its folder.

    A process belongs to the run if its command line or its open files name the run's folder or the logs of its Ray
    session. No other process is touched.

    Args:
        session: name of the Ray session, if one was started.
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
    """Return a port that nobody listens on, and that no outgoing connection is given before Serve listens there."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
