"""Ray and Serve under `ml-serve up`: start or join, deploy, stop without leftovers.

Import this only after `app.deployments.environment.apply`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve

from app.deployments.application import APPLICATION
from app.deployments.environment import end_run
from app.errors import StartupError
from app.settings import Settings

log = logging.getLogger(__name__)

GRPC_SERVICER = "app.oip.grpc_service.add_to_server"
"""Names the methods of the gateway for Serve's gRPC ingress."""

_OBJECT_STORE_BYTES = 1024**3
_POLL_S = 0.25


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

    log_folder = "/tmp/ray/session_latest/logs/serve"  # noqa: S108 - Ray's own path
    """Folder of the replicas' logs."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._settings.http_port}"

    def session(self) -> str | None:
        """Return the session name of a local Ray, which identifies its processes; None for a joined cluster."""
        local = self._settings.ray_address is None
        return str(ray.get_runtime_context().get_session_name()) if local else None

    def start(self) -> None:
        """Start a local Ray, or join the cluster of `ray_address`.

        Raises:
            StartupError: Ray cannot be started or reached.
        """
        settings = self._settings
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
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
            where = f"at {settings.ray_address}" if settings.ray_address else "on this machine"
            raise StartupError(f"failed to start or reach Ray {where}: {_first_line(error)}") from error

    def start_serve(self) -> None:
        """Start Serve's controller and the load balancer, which as yet has nothing behind it."""
        self._progress("starting Ray Serve")
        serve.start(
            http_options={"host": "0.0.0.0", "port": self._settings.http_port},  # noqa: S104 - HAProxy mode has no other
            grpc_options={"port": self._settings.grpc_port, "grpc_servicer_functions": [GRPC_SERVICER]},
        )

    def deploy(self, application: Any) -> None:
        """Deploy, and return when every deployment has its first replicas.

        Raises:
            StartupError: a deployment does not start.
        """
        self._progress("starting the deployments")
        try:
            serve.run(application, name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            log.debug("deployment failed", exc_info=True)
            raise StartupError(f"failed to deploy the application: {_cause(error)}; logs: {self.log_folder}") from None

    def wait_ready(self, timeout_s: float) -> None:
        """Return when `/readyz` answers 200 through the load balancer.

        Raises:
            StartupError: it does not within `timeout_s` seconds.
        """
        self._progress("loading models")
        deadline = time.monotonic() + timeout_s
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while time.monotonic() < deadline:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(_POLL_S)
            try:
                reason = client.get("/health").text
            except httpx.HTTPError as error:
                reason = str(error)
        raise StartupError(f"not ready within {timeout_s:g} s: {reason}; logs: {self.log_folder}")

    def alive(self) -> bool:
        """Return whether Ray and the application still run."""
        try:
            return APPLICATION in serve.status().applications
        except Exception:
            return False

    def stop(self) -> None:
        """Drain and end what `start` started: Serve first, because Ray alone leaves the load balancer behind."""
        if not ray.is_initialized():
            end_run(self._run_folder, None)
            return
        self._progress("draining and stopping")
        # Ray prints an error about the controller's last call, which ends the controller.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                if self._settings.ray_address is None:
                    serve.shutdown()
                else:
                    serve.delete(APPLICATION)
            finally:
                session = self.session()
                ray.shutdown()
                end_run(self._run_folder, session)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cause(error: Exception) -> str:
    # The last line of a remote traceback names the error that the constructor raised.
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return errors[-1] if errors else lines[0]
