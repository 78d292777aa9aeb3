"""The systems under comparison: how to install, start and call each. The code of the peers is in `peers/`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import dialects as d
from benchmarks.models import INLINE, ModelData
from benchmarks.paths import (
    BEFORE_HOMES,
    DEMO_HOME,
    ENVIRONMENTS,
    FRESH_HOME,
    GROWN_HOME,
    MANY_HOME,
    PEERS,
    ROOT,
    SINGLE_HOME,
)

OURS, INLINED, BEFORE = "ml-serve", "ml-serve-gateway", "before"


@dataclass(frozen=True, slots=True)
class System:
    """One system.

    `command` and `variables` may contain placeholders: `{bin}` (the programs of its environment), `{model}` (folder of
    the model's artifacts), `{name}` (the model's registered name), `{port}` and `{grpc}`.

    Args:
        package: the package whose version the report shows.
        environment: virtual environment below `.venv-peers`; None for the project itself.
        dialect: the request form for one row.
        batches: whether the system batches rows of several callers.
        folder: working directory; for the project itself the checkout that runs.
        suffix: what the system appends to the model's name.
    """

    name: str
    title: str
    command: tuple[str, ...]
    package: str
    environment: str | None
    port: int
    dialect: d.Dialect
    batches: bool
    folder: Path = ROOT
    variables: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    suffix: str = ""
    stopped_by: signal.Signals = signal.SIGTERM

    @property
    def grpc_port(self) -> int:
        return self.port + 1000

    @property
    def is_ours(self) -> bool:
        """Whether the system is a checkout of this project, and no peer."""
        return self.environment is None

    @property
    def bin(self) -> Path:
        """Folder of the programs in the system's environment.

        A checkout without an environment of its own runs in the one of this process.
        """
        own = ENVIRONMENTS / self.environment if self.environment else self.folder / ".venv"
        return own / "bin" if self.environment or own.exists() else Path(sys.executable).parent

    def home(self, session: str) -> Path:
        """Return the `ML_SERVE_HOME` of a session.

        `before` has homes of its own: an older checkout need not understand the files that a newer one has written.
        """
        home = {"many": MANY_HOME, "grown": GROWN_HOME, "start": FRESH_HOME}.get(session, SINGLE_HOME)
        return BEFORE_HOMES / home.name if self.name == BEFORE else home

    def environment_variables(self, session: str, data: ModelData) -> dict[str, str]:
        """Return the variables that this session adds to the environment."""
        variables = {name: self._filled(value, data) for name, value in self.variables.items()}
        variables["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        if self.is_ours:
            variables["PYTHONPATH"] = f"{self.folder}:{self.folder / 'clients' / 'python' / 'src'}"
            variables["ML_SERVE_HOME"] = str(self.home(session))
            variables |= SETTINGS.get(session, {})
        return variables

    def command_in(self, session: str, data: ModelData) -> list[str]:
        """Return the command that starts the system for this session."""
        left_out = "--no-demo" if session == "start" else None
        return [self._filled(part, data) for part in self.command if part != left_out]

    def _filled(self, text: str, data: ModelData) -> str:
        return text.format(bin=self.bin, model=data.folder, name=data.model, port=self.port, grpc=self.grpc_port)


def _ours(
    name: str,
    title: str,
    port: int,
    *,
    suffix: str = "",
    checkout: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> System:
    return System(
        name=name,
        title=title,
        command=("{bin}/ml-serve", "up", "--no-demo"),
        package="ml-serve-gateway",
        environment=None,
        port=port,
        dialect=d.SERVE,
        batches=True,
        variables={
            "ML_SERVE_HTTP_PORT": "{port}",
            "ML_SERVE_GRPC_PORT": "{grpc}",
            "ML_SERVE_HAPROXY_STATS_PORT": str(port + 2000),
            "ML_SERVE_HAPROXY_METRICS_PORT": str(port + 3000),
            "ML_SERVE_PRELOAD": "{name}" + suffix,
            **(variables or {}),
        },
        folder=checkout,
        ports=(port, port + 1000, port + 2000, port + 3000),
        suffix=suffix,
    )


def before(checkout: Path) -> System:
    """Return another checkout of this project as a system, to compare with this one in the same run.

    It runs in its own `.venv`, or in the environment of this process where it has none. `PYTHONPATH` names the
    checkout in both cases, so its code is imported even where that environment has another checkout installed.
    """
    return _ours(BEFORE, f"ml-serve of {checkout}", 18010, checkout=checkout)


def _fastapi(workers: int, port: int) -> System:
    command = ("{bin}/uvicorn", "server:app", "--port", "{port}", "--workers", str(workers), "--no-access-log")
    return System(
        name=f"fastapi-{workers}",
        title=f"FastAPI and pyfunc, {workers} worker{'s' if workers > 1 else ''}",
        command=(*command, "--log-level", "warning"),
        package="fastapi",
        environment="fastapi",
        port=port,
        dialect=d.OBJECT,
        batches=False,
        folder=PEERS / "fastapi",
        variables={"BENCH_MODEL": "{model}"},
        ports=(port,),
    )


def _mlserver(name: str, title: str, runtime: str, port: int, *, artifact: str, dialect: d.Dialect) -> System:
    return System(
        name=name,
        title=title,
        command=("{bin}/mlserver", "start", "."),
        package="mlserver",
        environment="mlserver",
        port=port,
        dialect=dialect,
        batches=True,
        folder=PEERS / "mlserver" / runtime,
        variables={
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{grpc}",
            "MLSERVER_MODEL_NAME": "{name}",
            "MLSERVER_MODEL_URI": "{model}" + artifact,
        },
        ports=(port, port + 1000),
    )


ALL = (
    _ours(OURS, "ml-serve, model in a pool", 18000),
    _ours(
        INLINED,
        "ml-serve, model in the gateway",
        18001,
        suffix=INLINE,
        variables={"ML_SERVE_POOLS": '{{"inline": {{"placement": "gateway"}}}}'},
    ),
    before(ROOT),  # a placeholder for reports: a run replaces it by the checkout of its option
    _fastapi(1, 18002),
    _fastapi(2, 18003),
    System(
        name="mlflow",
        title="mlflow models serve, 2 workers",
        command=(
            *("{bin}/mlflow", "models", "serve", "--model-uri", "{model}", "--env-manager", "local"),
            *("--workers", "2", "--host", "127.0.0.1", "--port", "{port}"),
        ),
        package="mlflow",
        environment="mlflow",
        port=18004,
        dialect=d.MLFLOW,
        batches=False,
        variables={"UVICORN_ACCESS_LOG": "false"},
        ports=(18004,),
    ),
    _mlserver(
        "mlserver", "MLServer, scikit-learn runtime", "sklearn", 18005, artifact="/model.pkl", dialect=d.V2_TENSOR
    ),
    _mlserver("mlserver-mlflow", "MLServer, MLflow runtime", "mlflow", 18006, artifact="", dialect=d.V2_COLUMNS),
    System(
        name="bentoml",
        title="BentoML, batching",
        command=("{bin}/bentoml", "serve", "service:Model", "--host", "127.0.0.1", "--port", "{port}"),
        package="bentoml",
        environment="bentoml",
        port=18007,
        dialect=d.ROWS,
        batches=True,
        folder=PEERS / "bentoml",
        variables={"BENCH_MODEL": "{model}", "BENTOML_DO_NOT_TRACK": "True"},
        ports=(18007,),
    ),
    System(
        name="litserve",
        title="LitServe, batching",
        command=("{bin}/python", "server.py"),
        package="litserve",
        environment="litserve",
        port=18008,
        dialect=d.ROW,
        batches=True,
        folder=PEERS / "litserve",
        variables={"BENCH_MODEL": "{model}", "BENCH_PORT": "{port}"},
        ports=(18008,),
        stopped_by=signal.SIGINT,  # SIGTERM leaves its workers behind
    ),
    System(
        name="ray",
        title="Ray Serve, textbook",
        command=("{bin}/python", "server.py"),
        package="ray",
        environment="ray",
        port=18009,
        dialect=d.OBJECT,
        batches=True,
        folder=PEERS / "ray",
        variables={"BENCH_MODEL": "{model}", "BENCH_PORT": "{port}"},
        ports=(18009,),
    ),
)
BY_NAME = {system.name: system for system in ALL}

MANY_BYTES = 90_000_000
"""Model bytes of the pool that a hundred models share: room for about thirty."""


def _replicas(count: int) -> dict[str, str]:
    """Return the settings of a pool of this many replicas, each of which holds every model."""
    settings = {"min_replicas": count, "max_replicas": count, "num_cpus": 0.1, "copies": count}
    return {f"ML_SERVE_POOLS__DEFAULT__{name.upper()}": str(value) for name, value in settings.items()}


SETTINGS = {
    "features": {"ML_SERVE_FEAST_REPO": str(DEMO_HOME / "feast")},
    "many": {"ML_SERVE_POOLS__DEFAULT__MODEL_BYTES": str(MANY_BYTES)},
    "pool-2": _replicas(2),
    "pool-4": _replicas(4),
    "start": {"ML_SERVE_PRELOAD": "*"},
}
"""Settings of the project that differ in a session of that name."""
