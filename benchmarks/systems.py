"""The systems that are compared: how each is installed, started and asked. Their code is in `peers/`."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import dialects as d
from benchmarks.models import INLINE, ModelData
from benchmarks.paths import DEMO_HOME, ENVIRONMENTS, FRESH_HOME, MANY_HOME, PEERS, ROOT, SINGLE_HOME

OURS, INLINED = "ours", "ours-gateway"


@dataclass(frozen=True, slots=True)
class System:
    """One system.

    Args:
        command: what starts it; `{bin}`, `{model}` (the folder of artifacts), `{port}` and `{grpc}` are filled in.
        package: whose version is shown.
        environment: its virtual environment under `.venv-peers`; None is the product's.
        variables: of the environment, filled in likewise; `{name}` is the model's name.
        dialect: how one row is asked.
        batches: whether it computes rows of several callers together.
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
    ending: str = ""
    """Of the model's name in this system."""
    stopped_by: signal.Signals = signal.SIGTERM

    @property
    def grpc_port(self) -> int:
        return self.port + 1000

    @property
    def is_ours(self) -> bool:
        return self.environment is None

    @property
    def bin(self) -> Path:
        """Programs of its environment."""
        return (ENVIRONMENTS / self.environment if self.environment else ROOT / ".venv") / "bin"

    def environment_variables(self, session: str, data: ModelData) -> dict[str, str]:
        """What its environment has in a session of that name."""
        further = SETTINGS.get(session, {}) if self.is_ours else {}
        path = f"{self.bin}:{os.environ['PATH']}"
        return {"PATH": path} | {name: self.filled(value, data) for name, value in self.variables.items()} | further

    def command_in(self, session: str, data: ModelData) -> list[str]:
        """What starts it in a session of that name."""
        left_out = "--no-demo" if session == "start" else None
        return [self.filled(part, data) for part in self.command if part != left_out]

    def filled(self, text: str, data: ModelData) -> str:
        """A part of the command or a variable, filled in."""
        return text.format(bin=self.bin, model=data.folder, name=data.model, port=self.port, grpc=self.grpc_port)


def _ours(name: str, title: str, port: int, ending: str = "", **variables: str) -> System:
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
            "ML_SERVE_HOME": str(SINGLE_HOME),
            "ML_SERVE_HTTP_PORT": "{port}",
            "ML_SERVE_GRPC_PORT": "{grpc}",
            "ML_SERVE_HAPROXY_STATS_PORT": str(port + 2000),
            "ML_SERVE_HAPROXY_METRICS_PORT": str(port + 3000),
            "ML_SERVE_PRELOAD": "{name}" + ending,
            **variables,
        },
        ports=(port, port + 1000, port + 2000, port + 3000),
        ending=ending,
    )


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
        INLINE,
        ML_SERVE_POOLS='{{"inline": {{"placement": "gateway"}}}}',
    ),
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
"""Bytes of models that the pool may hold where a hundred share it: about thirty."""

SETTINGS = {
    "features": {"ML_SERVE_FEAST_REPO": str(DEMO_HOME / "feast")},
    "many": {"ML_SERVE_HOME": str(MANY_HOME), "ML_SERVE_POOLS__DEFAULT__MODEL_BYTES": str(MANY_BYTES)},
    "start": {"ML_SERVE_HOME": str(FRESH_HOME), "ML_SERVE_PRELOAD": "*"},
}
"""What the product's settings differ by in a session of that name."""
