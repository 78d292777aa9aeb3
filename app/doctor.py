"""Whether the platform can start here: `examine`, called by ``ml-serve doctor`` and before ``ml-serve up`` starts.

Nothing is started and nothing is written. Registry and feature store are asked in threads that are given up when their
time is over, so one that hangs holds up nobody.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.errors import ServingError
from app.settings import Settings
from app.settings.model import PREFIX

REGISTRY = "registry"
"""Name of the check whether the model registry answers."""

_CHECK_S = 30.0
"""Seconds that a check may take: importing MLflow and Feast alone takes several on a busy machine."""
_LONGEST_COMMAND = 80
_PYTHONS = ((3, 11), (3, 14))  # from, and before
_FLAVOURS = {
    "scikit-learn": "sklearn",
    "LightGBM": "lightgbm",
    "XGBoost": "xgboost",
    "ONNX Runtime": "onnxruntime",
    "PyTorch": "torch",
    "TensorFlow": "tensorflow",
}
"""Libraries that models need to be loaded, and the module of each."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `message` is one line for the operator, complete without the name."""

    name: str
    ok: bool
    message: str


def examine(settings: Settings, *, ports: bool = True) -> list[Check]:
    """Look at everything that a start needs. Never raises; what is wrong is in the answer.

    Args:
        ports: whether to look at the ports; not where the platform is meant to be running.
    """
    return [*examine_machine(settings, ports=ports), *examine_servers(settings)]


def examine_machine(settings: Settings, *, ports: bool = True) -> list[Check]:
    """What is known at once. The ports of a cluster that is joined are never looked at: its load balancer has them."""
    checks = [_system(), _home(settings.home)]
    if ports and settings.ray_address is None:
        checks += _ports(settings)
    checks.append(_flavours())
    if not settings.is_embedded_registry and (
        settings.mlflow_s3_endpoint_url or settings.aws_access_key_id or settings.aws_secret_access_key
    ):
        checks.append(_s3_client())
    return checks


def examine_servers(settings: Settings) -> list[Check]:
    """What takes seconds: to import the clients of registry and feature store, and to be answered."""
    return [
        _bounded(REGISTRY, lambda: _registry(settings)),
        _bounded("feature store", lambda: _features(settings)),
    ]


def _system() -> Check:
    version = platform.python_version()
    lowest, above = _PYTHONS
    if not lowest <= sys.version_info < above:
        wanted = f"{lowest[0]}.{lowest[1]} to {above[0]}.{above[1] - 1}"
        return Check("system", False, f"Python {version} is not supported: use {wanted}")
    if sys.platform != "linux":
        return Check("system", False, f"{platform.system()} is not supported: Ray's load balancer is built for Linux")
    return Check("system", True, f"Python {version} on Linux {platform.machine()}")


def _home(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not existing.is_dir():
        return Check("home", False, f"{existing} is a file, and the home folder {home} belongs there")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("home", False, f"the home folder {home} cannot be written: set {PREFIX}HOME to one that can")
    return Check("home", True, f"{home} {'can be written' if existing == home else 'will be created'}")


def _ports(settings: Settings) -> Iterator[Check]:
    fields = ["http_port", "grpc_port", "haproxy_stats_port", "haproxy_metrics_port"]
    if settings.dashboard:
        fields.append("dashboard_port")
    holders: dict[int, str] = {}
    for field in fields:
        port: int = getattr(settings, field)
        if port in holders:
            yield Check(f"port {port}", False, f"{holders[port]} and {field} are both {port}")
        else:
            yield _port(port, field)
        holders[port] = field


def _port(port: int, field: str) -> Check:
    name = f"port {port}"
    with socket.socket() as probe:
        # Connections that are closing do not count; a listening socket still does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except PermissionError:
            message = f"{name} needs privileges that this user lacks: set {PREFIX}{field.upper()} to 1024 or more"
            return Check(name, False, message)
        except OSError:
            message = f"{name} is taken by {_holder(port)}: stop it, or set {PREFIX}{field.upper()}"
            return Check(name, False, message)
    return Check(name, True, f"{name} ({field}) is free")


def _holder(port: int) -> str:
    """The process that listens on a port, or else has a connection from it."""
    try:
        there = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid is not None]
        if not there:
            return "a process that cannot be seen from here, such as another user's"
        holder = min(there, key=lambda connection: connection.status != psutil.CONN_LISTEN)
        process = psutil.Process(holder.pid)
        return f"process {process.pid} ({process.name()}: {_command(process)})"
    except psutil.Error:
        return "a process that cannot be seen"


def _command(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return command if len(command) <= _LONGEST_COMMAND else f"{command[: _LONGEST_COMMAND - 1]}…"


def _registry(settings: Settings) -> str:
    # Heavy, and it sets up MLflow for the whole process.
    from app.adapters.mlflow.registry import MlflowRegistry, configure  # noqa: PLC0415

    shown = without_password(settings.registry_uri)
    if settings.registry_uri.startswith("sqlite:///"):
        file = Path(settings.registry_uri.removeprefix("sqlite:///"))
        if not file.exists():
            return f"{shown} will be created"
    configure(settings)
    try:
        MlflowRegistry(settings).check()
    except ServingError as error:
        raise type(error)(f"{error.message} ({shown})", error.details) from error
    return f"{shown} answers"


def _features(settings: Settings) -> str:
    if settings.feast_folder is None:
        return "not configured: requests bring their own columns"
    from app.adapters.feast.store import FeastStore  # noqa: PLC0415 - heavy

    FeastStore(settings.feast_folder).check()
    return f"{settings.feast_folder} can be read"


def _flavours() -> Check:
    there = [name for name, module in _FLAVOURS.items() if importlib.util.find_spec(module)]
    missing = [name for name in _FLAVOURS if name not in there]
    message = f"installed: {', '.join(there) or 'none'}"
    return Check("model libraries", True, f"{message}; not: {', '.join(missing)}" if missing else message)


def _s3_client() -> Check:
    name = "artifact store"
    if importlib.util.find_spec("boto3") is None:
        return Check(name, False, "S3 is configured, and its client is missing: pip install 'ml-serve-gateway[stores]'")
    return Check(name, True, "the client for S3 is installed")


def _bounded(name: str, look: Callable[[], str]) -> Check:
    """The check, or that it failed or took too long."""
    found = [Check(name, False, f"the {name} did not answer within {_CHECK_S:g} s")]

    def work() -> None:
        try:
            found.append(Check(name, True, look()))
        except ServingError as error:
            found.append(Check(name, False, error.message))
        except Exception as error:
            first = next(iter(str(error).splitlines()), "")
            found.append(Check(name, False, f"the {name} cannot be checked: {type(error).__name__}: {first}"))

    thread = threading.Thread(target=work, name=f"doctor-{name}", daemon=True)
    thread.start()
    thread.join(_CHECK_S)
    return found[-1]


def without_password(uri: str) -> str:
    """The URI without user and password, fit to be shown."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri
