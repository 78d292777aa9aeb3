"""The workloads: requests, their model, and the session of a system in which they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks import dialects as d
from benchmarks.systems import ALL, BEFORE, INLINED, OURS, System

ROW_SYSTEMS = tuple(system.name for system in ALL)
ENCODINGS = "encodings"
"""Name of the measurement without a server; see `encodings.py`."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One load.

    Args:
        session: a system is started once for all workloads of a session. It is also the name of the data.
        kind: `row`: one row per request; `table`: a thousand rows; `one` and `many`: one of a hundred models, and all
            of them; `grown`: some of a thousand models in turn; `start`: only the first request after the start.
        models: how many models of kind `grown` are called.
        rate: requests per second at random times; None is a closed loop.
        asked: dialects by system, where they differ from the system's own for one row.
    """

    name: str
    title: str
    session: str
    connections: int
    systems: tuple[str, ...]
    kind: Literal["row", "table", "one", "many", "grown", "start"] = "row"
    models: int = 1
    rate: float | None = None
    asked: Mapping[str, tuple[d.Dialect, ...]] | None = None

    @property
    def rows(self) -> int:
        """Rows per request."""
        return 1000 if self.kind == "table" else 1

    def dialects(self, system: System) -> tuple[d.Dialect, ...]:
        """Return the dialects in which to call the system."""
        return (self.asked or {}).get(system.name, (system.dialect,))


def _row(name: str, title: str, session: str, connections: int, rate: float | None = None) -> Workload:
    return Workload(name, title, session, connections, ROW_SYSTEMS, rate=rate)


def _table(name: str, title: str, asked: Mapping[str, tuple[d.Dialect, ...]]) -> Workload:
    return Workload(name, title, "table", 4, tuple(asked), "table", asked=asked)


def _grown(count: int) -> Workload:
    title = f"{count:,} of a thousand linear models in turn, 64 connections"
    return Workload(f"grown-{count}", title, "grown", 64, _CHECKOUTS, "grown", models=count)


_CHECKOUTS = (OURS, BEFORE)
_ENTITY = dict.fromkeys(_CHECKOUTS, (d.ENTITY,))
_DIALECTS = dict.fromkeys(_CHECKOUTS, (d.SERVE, d.V1, d.V2_TENSOR, d.V2_COLUMNS, d.MLFLOW_OURS, d.GRPC))
ALL_WORKLOADS = (
    _row("linear-1", "Linear model, one row, 1 connection", "linear", 1),
    _row("linear-8", "Linear model, one row, 8 connections", "linear", 8),
    _row("linear-64", "Linear model, one row, 64 connections", "linear", 64),
    _row("linear-300rps", "Linear model, one row, 300 requests/s, 64 connections", "linear", 64, 300),
    _row("linear-600rps", "Linear model, one row, 600 requests/s, 64 connections", "linear", 64, 600),
    Workload(
        "dialects-64",
        "Linear model, one row in each dialect, 64 connections",
        "linear",
        64,
        _CHECKOUTS,
        asked=_DIALECTS,
    ),
    Workload("pool-2", "Linear model, one row, two pool replicas, 64 connections", "pool-2", 64, _CHECKOUTS),
    Workload("pool-4", "Linear model, one row, four pool replicas, 64 connections", "pool-4", 64, _CHECKOUTS),
    _row("forest-1", "Random forest of 100 trees, one row, 1 connection", "forest", 1),
    _row("forest-64", "Random forest of 100 trees, one row, 64 connections", "forest", 64),
    _table(
        "table-binary",
        "1,000 rows × 100 columns, 4 connections, the fastest dialects of each system",
        {
            **dict.fromkeys(_CHECKOUTS, (d.V2_BINARY, d.GRPC)),
            INLINED: (d.V2_BINARY,),
            "mlserver": (d.GRPC, d.V2_TENSOR),
            "mlflow": (d.MLFLOW,),
        },
    ),
    _table(
        "table-json",
        "1,000 rows × 100 columns, 4 connections, JSON `dataframe_split`",
        {**dict.fromkeys(_CHECKOUTS, (d.MLFLOW_OURS,)), "mlflow": (d.MLFLOW,)},
    ),
    Workload("features-off", "Columns in the request, 64 connections", "features", 64, _CHECKOUTS),
    Workload(
        "features-on", "Columns from the feature store, 64 connections", "features", 64, _CHECKOUTS, asked=_ENTITY
    ),
    Workload("many-one", "One of a hundred models, 32 connections", "many", 32, _CHECKOUTS, "one"),
    Workload("many", "A hundred models by Zipf's law, room for thirty, 32 connections", "many", 32, _CHECKOUTS, "many"),
    *(_grown(count) for count in (1, 10, 100, 1000)),
    Workload("start", "From nothing to the demo's first right answer", "start", 1, _CHECKOUTS, "start"),
)
BY_NAME = {workload.name: workload for workload in ALL_WORKLOADS}
