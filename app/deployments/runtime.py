"""Ray and Serve under `ml-serve up`: start or join, deploy, stop without leftovers.

Import this only after `app.deployments.environment.apply`. It imports Serve while Ray starts.
"""
# ruff: noqa: PLC0415 - for this reason

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from ray.exceptions import RayError

from app.deployments import APPLICATION
from app.deployments.environment import MODE, PRELOAD, end_run
from app.errors import StartupError
from app.settings import Settings

log = logging.getLogger(__name__)

GRPC_SERVICER = "app.oip.grpc_service.add_to_server"
"""Names the methods of the gateway for Serve's gRPC ingress."""

_OBJECT_STORE_BYTES = 1024**3
_POLL_S = 0.25
_LOOK_S = 2.0
_ANSWER_S = 5.0
_DOOR_S = 2.5
_VITAL = {"raylet", "gcs_server"}


class Runtime:
    """One run of the platform.

    Args:
        run_folder: the folder that was passed to `ray_environment`.
        progress: called with a few words at each step.
    """

    def __init__(self, settings: Settings, run_folder: Path, progress: Callable[[str], None]) -> None:
        self._settings = settings
        self._run_folder = run_folder
        self._progress = progress
        self._serve: Future[None]

    @property
    def log_folder(self) -> str:
        """Folder of the replicas' logs."""
        own = os.environ["RAY_TMPDIR"] if self._settings.ray_address is None else "/tmp"  # noqa: S108 - Ray's default
        return f"{own}/ray/session_latest/logs/serve"

    @property
    def url(self) -> str:
        host = self._settings.bind_host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - to compare
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self._settings.http_port}"

    def session(self) -> str | None:
        """Return the session name of a local Ray, which identifies its processes; None for a joined cluster."""
        local = self._settings.ray_address is None
        return str(ray.get_runtime_context().get_session_name()) if local else None

    def start(self) -> None:
        """Start a local Ray, or join the cluster of `ray_address`.

        Raises:
            StartupError: Ray cannot be started or reached.
        """
        with ThreadPoolExecutor(1) as importer:
            imported = importer.submit(_import_serve)
            self._start_ray()
        imported.result()
        missing = missing_variables() if self._settings.ray_address is not None else []
        if missing:
            self._progress(
                f"WARNING: this Ray runs without {', '.join(missing)}: requests will take many times as long. "
                "Set all variables that the Dockerfile sets before `ray start`, on every node"
            )
        logging.getLogger("ray.serve").setLevel(logging.ERROR)

    def _start_ray(self) -> None:
        settings = self._settings
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        try:
            if settings.ray_address is not None:
                self._progress(f"joining Ray at {settings.ray_address}")
                ray.init(settings.ray_address, runtime_env={"env_vars": settings.storage_environment()}, **quiet)
            else:
                self._progress("starting Ray")
                ray.init(
                    "local",
                    include_dashboard=settings.dashboard,
                    dashboard_port=settings.dashboard_port,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **quiet,
                )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where, advice = "on this machine", ""
            if settings.ray_address is not None:
                where = f"at {settings.ray_address}"
                advice = "; if that cluster wants a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or its file"
            raise StartupError(f"failed to start or reach Ray {where}: {_first_line(error)}{advice}") from error

    def start_serve(self) -> None:
        """Start Serve's controller and the load balancer, which as yet has nothing behind it.

        Returns when the controller runs: the deployments can start beside the load balancer.

        Raises:
            StartupError: Serve does not start.
        """
        from ray import serve

        self._progress("starting Ray Serve")
        self._serve = ThreadPoolExecutor(1).submit(
            serve.start,
            http_options={"host": self._settings.bind_host, "port": self._settings.http_port},
            grpc_options={"port": self._settings.grpc_port, "grpc_servicer_functions": [GRPC_SERVICER]},
            logging_config={"encoding": self._settings.log_format.upper()},
        )
        while not (self._serve.done() or serve.status().proxies):
            time.sleep(_POLL_S)
        self._require_serve()

    def deploy(self, application: Any) -> None:
        """Deploy; `wait_ready` waits for the replicas."""
        from ray import serve

        self._progress("starting the deployments and loading models")
        target = serve.RunTarget(application, name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def wait_ready(self, timeout_s: float) -> None:
        """Return when `/readyz` answers 200 through the load balancer.

        Raises:
            StartupError: it does not within `timeout_s` seconds, or something does not start.
        """
        deadline = time.monotonic() + timeout_s
        look_again = 0.0
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/readyz").status_code == 200:
                        return
                if time.monotonic() > look_again:  # costs more than the request above
                    self._require_serve()
                    self._require_deployed()
                    look_again = time.monotonic() + _LOOK_S
                time.sleep(_POLL_S)
            try:
                reason = client.get("/health").text
            except httpx.HTTPError as error:
                reason = str(error)
        raise StartupError(f"not ready within {timeout_s:g} s: {reason}; logs: {self.log_folder}")

    def _require_serve(self) -> None:
        """Raise `StartupError` if the start of Serve has failed."""
        if not self._serve.done():
            return
        try:
            self._serve.result()
        except (RuntimeError, TimeoutError, RayError) as error:
            raise StartupError(f"failed to start Ray Serve: {_cause(str(error))}; logs: {self.log_folder}") from error

    def _require_deployed(self) -> None:
        """Raise `StartupError` if a deployment does not start."""
        from ray import serve
        from ray.serve.schema import DeploymentStatus

        for name, deployment in serve.status().applications[APPLICATION].deployments.items():
            if deployment.status == DeploymentStatus.DEPLOY_FAILED:
                raise StartupError(f"failed to start {name}: {_cause(deployment.message)}; logs: {self.log_folder}")

    def answers(self) -> bool:
        """Return whether Ray says within some seconds that the application runs. Without a node, it never answers."""
        found: list[bool] = []

        def look() -> None:
            from ray import serve

            with contextlib.suppress(Exception):
                found.append(APPLICATION in serve.status().applications)

        looking = threading.Thread(target=look, daemon=True)  # may stay behind
        looking.start()
        looking.join(_ANSWER_S)
        return found == [True]

    def has_ended(self) -> bool:
        """Return whether a process has ended without which the local Ray cannot go on."""
        if self._settings.ray_address is not None:
            return False
        running = set()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    running.add(child.name())
        return not running >= _VITAL

    def stop(self, *, has_ended: bool = False) -> None:
        """Drain and end what `start` started: Serve first, because Ray alone leaves the load balancer behind.

        Args:
            has_ended: Ray has ended by itself, so that Serve cannot be asked any more.
        """
        if not ray.is_initialized():
            end_run(self._run_folder, None)
            return
        from ray import serve

        session = self.session()
        self._progress("ending what is left" if has_ended else "draining and stopping")
        # Ray prints an error about the controller's last call, which ends the controller.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                if has_ended:
                    pass
                elif self._settings.ray_address is None:
                    self._refuse_connections()
                    serve.shutdown()
                else:
                    serve.delete(APPLICATION)
            finally:
                ray.shutdown()
                end_run(self._run_folder, session)

    def _refuse_connections(self) -> None:
        """Let the load balancer finish its requests and take no more: Serve would end both halfway.

        It takes less than the three failed health checks after which Ray would start another one.
        """
        mark = f"{self._run_folder}/"
        balancers = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "haproxy" and any(mark in word for word in process.info["cmdline"] or ())
        ]
        for balancer in balancers:
            with contextlib.suppress(psutil.NoSuchProcess):
                balancer.send_signal(signal.SIGUSR1)
        psutil.wait_procs(balancers, timeout=min(self._settings.drain_s, _DOOR_S))


def _import_serve() -> None:
    import_module(PRELOAD)
    import_module("app.deployments.application")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cause(message: str) -> str:
    # The last line of a remote traceback names the error that the constructor raised.
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["no reason was given"]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    last = errors[-1] if errors else lines[0]
    return last.partition(": ")[2] if last.startswith("app.errors.") else last  # ours need no name


def missing_variables() -> list[str]:
    """List the variables of `MODE` that this process has and the processes of the Ray that it joined have not."""
    found = ray.get(ray.remote(num_cpus=0)(_environment).remote())
    return [f"{name}={os.environ[name]}" for name in MODE if found.get(name) != os.environ[name]]


def _environment() -> dict[str, str]:
    return dict(os.environ)
