"""Check whether the platform can start here: `examine`, for ``ml-serve doctor`` and for ``ml-serve up`` before a start.

Checks start nothing and write nothing. A time limit applies to the registry and the feature store.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.adapters.artifacts.trusted_keys import require_trusted_keys
from app.adapters.mlflow.timeouts import BoundedCalls
from app.deployments.access import require_access
from app.errors import ServingError, StartupError
from app.settings import Settings
from app.settings.groups import PREFIX
from app.settings.stores import without_password

REGISTRY = "registry"
"""Name of the check of the model registry."""

_CHECK_S = 60.0
"""Time limit of a check: the import of MLflow and Feast alone takes several seconds on a busy machine."""
_MAX_COMMAND = 80
_PYTHONS = ((3, 11), (3, 14))  # from, and before
_LIBRARIES = {
    "scikit-learn": "sklearn",
    "LightGBM": "lightgbm",
    "XGBoost": "xgboost",
    "ONNX Runtime": "onnxruntime",
    "PyTorch": "torch",
    "TensorFlow": "tensorflow",
}
"""Libraries that models need, and the module of each."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check. `message` is one line for the operator, complete without the name."""

    name: str
    ok: bool
    message: str


def examine(settings: Settings) -> list[Check]:
    """Check everything that a start needs. Never raises; failures are in the result."""
    return [*examine_machine(settings), *examine_servers(settings)]


def examine_machine(settings: Settings) -> list[Check]:
    """Run the checks that take no time. Ports are skipped for an existing cluster: its load balancer uses them."""
    checks = [_system(), _home(settings.home)]
    if settings.ray_address is None:
        checks += _ports(settings)
    checks += [_access(settings), _model_libraries()]
    if settings.signatures.require:
        checks.append(_signatures(settings))
    if not settings.is_embedded_registry and (
        settings.mlflow_s3_endpoint_url or settings.aws_access_key_id or settings.aws_secret_access_key
    ):
        checks.append(_s3_client())
    return checks


def examine_servers(settings: Settings) -> list[Check]:
    """Run the checks that take seconds: import the clients of registry and feature store, and connect."""
    return [
        _bounded(REGISTRY, lambda: _registry(settings)),
        _bounded("feature store", lambda: _features(settings)),
    ]


def _access(settings: Settings) -> Check:
    mode = settings.auth.mode
    try:
        require_access(settings)
    except StartupError as error:
        return Check("access", False, error.message)
    who = "everybody who reaches the gateway" if mode == "none" else f"callers known by {mode}"
    return Check("access", True, f"{settings.bind_host} answers {who}")


def _signatures(settings: Settings) -> Check:
    signatures = settings.signatures
    try:  # on a cluster, only the replicas' nodes need to have the files
        require_trusted_keys(signatures, on_this_machine=not settings.is_cluster)
    except StartupError as error:
        return Check("signatures", False, error.message)
    count = len(signatures.public_keys) + len(signatures.certificates)
    which = ", ".join(signatures.models)
    return Check("signatures", True, f"models that match {which} need a signature by one of {count} trusted keys")


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
        return Check("home", False, f"{existing} is a file: set {PREFIX}HOME to a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("home", False, f"the home folder {home} cannot be written: set {PREFIX}HOME to one that can")
    return Check("home", True, f"{home} {'can be written' if existing == home else 'will be created'}")


def _ports(settings: Settings) -> Iterator[Check]:
    fields = ["http_port", "grpc_port", "haproxy_stats_port", "haproxy_metrics_port"]
    if settings.dashboard:
        fields.append("dashboard_port")
    seen: dict[int, str] = {}
    for field in fields:
        port: int = getattr(settings, field)
        fault = f"{seen[port]} and {field} are both {port}" if port in seen else _port_fault(port, field)
        seen[port] = field
        yield Check(f"port {port}", fault is None, fault or f"port {port} ({field}) is free")


def _port_fault(port: int, field: str) -> str | None:
    with socket.socket() as probe:
        # Ignores connections that are closing, but not a listening socket.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except PermissionError:
            return f"port {port} needs privileges that this user lacks: set {PREFIX}{field.upper()} to 1024 or more"
        except OSError:
            return f"port {port} is taken by {_port_user(port)}: stop it, or set {PREFIX}{field.upper()}"
    return None


def _port_user(port: int) -> str:
    """Describe the process that listens on a port, or has a connection from it."""
    try:
        there = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid is not None]
        if not there:
            return "a process that is not visible to this user"
        found = min(there, key=lambda connection: connection.status != psutil.CONN_LISTEN)
        process = psutil.Process(found.pid)
        command = " ".join(process.cmdline())
        if len(command) > _MAX_COMMAND:
            command = f"{command[: _MAX_COMMAND - 1]}…"
        return f"process {process.pid} ({process.name()}: {command})"
    except psutil.Error:
        return "a process that is not visible to this user"


def _registry(settings: Settings) -> str:
    # Heavy, and it configures MLflow for the whole process.
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


def _model_libraries() -> Check:
    installed = [name for name, module in _LIBRARIES.items() if importlib.util.find_spec(module)]
    missing = [name for name in _LIBRARIES if name not in installed]
    message = f"installed: {', '.join(installed) or 'none'}"
    return Check("model libraries", True, f"{message}; not: {', '.join(missing)}" if missing else message)


def _s3_client() -> Check:
    name = "artifact store"
    if importlib.util.find_spec("boto3") is None:
        return Check(name, False, "S3 is configured, and its client is missing: pip install 'ml-serve-gateway[stores]'")
    return Check(name, True, "the client for S3 is installed")


def _bounded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, BoundedCalls().run(check, _CHECK_S))
    except ServingError as error:
        return Check(name, False, error.message)
    except TimeoutError as error:
        return Check(name, False, f"the {name} {error}")
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        return Check(name, False, f"the {name} cannot be checked: {type(error).__name__}: {first}")
