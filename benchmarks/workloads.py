"""The workloads: what is sent, to which model, in which session of a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import dialects as d
from benchmarks.systems import ALL, OURS, System

ROW_SYSTEMS = tuple(system.name for system in ALL)


@dataclass(frozen=True, slots=True)
class Workload:
    """One load.

    Args:
        session: systems are started once for all workloads of a session; it names the model too.
        rate: requests a second at random times; None is a closed loop.
        asked: for each system the dialects, where they are not its own for one row.
        rows: of one request.
    """

    name: str
    title: str
    session: str
    connections: int
    systems: tuple[str, ...]
    rate: float | None = None
    asked: Mapping[str, tuple[d.Dialect, ...]] | None = None
    rows: int = 1

    def dialects(self, system: System) -> tuple[d.Dialect, ...]:
        """How that system is asked."""
        return (self.asked or {}).get(system.name, (system.dialect,))


def _row(name: str, title: str, session: str, connections: int, rate: float | None = None) -> Workload:
    return Workload(name, title, session, connections, ROW_SYSTEMS, rate)


def _table(name: str, title: str, asked: Mapping[str, tuple[d.Dialect, ...]]) -> Workload:
    return Workload(name, title, "table", 4, tuple(asked), asked=asked, rows=1000)


ALL_WORKLOADS = (
    _row("linear-1", "linear model, one row, 1 connection", "linear", 1),
    _row("linear-8", "linear model, one row, 8 connections", "linear", 8),
    _row("linear-64", "linear model, one row, 64 connections", "linear", 64),
    _row("linear-300rps", "linear model, one row, 300 requests/s, 64 connections", "linear", 64, 300),
    _row("linear-600rps", "linear model, one row, 600 requests/s, 64 connections", "linear", 64, 600),
    _row("forest-64", "random forest of 100 trees, one row, 64 connections", "forest", 64),
    _table(
        "table-binary",
        "1,000 rows × 100 columns, 4 connections, the fastest form that each has",
        {OURS: (d.V2_BINARY, d.GRPC), "mlserver": (d.GRPC, d.V2_TENSOR), "mlflow": (d.MLFLOW,)},
    ),
    _table(
        "table-json",
        "1,000 rows × 100 columns, 4 connections, JSON `dataframe_split`",
        {OURS: (d.MLFLOW_OURS,), "mlflow": (d.MLFLOW,)},
    ),
    Workload("features-off", "3 columns in the request, 64 connections", "features", 64, (OURS,)),
    Workload(
        "features-on",
        "3 columns from the feature store, 64 connections",
        "features",
        64,
        (OURS,),
        asked={OURS: (d.ENTITY,)},
    ),
)
BY_NAME = {workload.name: workload for workload in ALL_WORKLOADS}
