"""`make compare`: load this tree and another checkout in turns of a few seconds, while both run.

Two starts of one system can differ by a tenth, and a shared machine changes its speed within minutes. Both turns of a
pair see the same processes and nearly the same machine, so ten pairs tell a difference of a few percent.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from app.serving.confidence import Interval, Moments, mean
from benchmarks import load, models, systems
from benchmarks.bench import make_homes
from benchmarks.endpoint import Endpoint
from benchmarks.models import ModelData
from benchmarks.paths import LOGS
from benchmarks.processes import Running
from benchmarks.session import first_answer
from benchmarks.systems import System
from benchmarks.workloads import ALL_WORKLOADS, Workload

PAIRABLE = {one.name: one for one in ALL_WORKLOADS if one.kind in ("row", "one") and one.rate is None and not one.asked}
"""Workloads that wrk sends in a closed loop, in one dialect."""
_DEFAULT = "linear-1,linear-8,linear-64,many-one"
console = Console()


class Turn(NamedTuple):
    """One turn of one checkout: requests per second, and CPU microseconds per request of all its processes."""

    rate: float
    cpu_us: float


def ratio(pairs: Sequence[tuple[float, float]]) -> Interval:
    """Return the geometric mean of the ratios, with its 95 % confidence interval."""
    moments = Moments()
    for one, other in pairs:
        moments.add(log(one / other))
    found = mean(moments)
    return Interval(exp(found.value), exp(found.low), exp(found.high))


def main(
    before: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The other checkout.")],
    chosen: Annotated[str, typer.Option("--workloads", "-w", help="Names, comma-separated.")] = _DEFAULT,
    pairs: Annotated[int, typer.Option(min=2, help="Turns of each checkout.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a turn.")] = 4,
) -> None:
    """Compare this tree with another checkout, in turns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, which stops the systems
    load.find("wrk")
    unknown = [name for name in chosen.split(",") if name not in PAIRABLE]
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' cannot be compared; choose from: {', '.join(PAIRABLE)}")
    workloads = [PAIRABLE[name] for name in chosen.split(",")]
    make_homes(for_before=True)
    checkouts = (systems.BY_NAME[systems.OURS], systems.before(before.resolve()))
    for session in dict.fromkeys(one.session for one in workloads):
        data = models.read(models.data_of(session))
        with ExitStack() as stack:
            running = [stack.enter_context(_started(one, session, data)) for one in checkouts]
            for workload in (one for one in workloads if one.session == session):
                turns = list(_turns(checkouts, running, workload, data, pairs=pairs, seconds=seconds))
                _show(workload, turns)


@contextmanager
def _started(system: System, session: str, data: ModelData) -> Iterator[Running]:
    running = Running(
        system.command_in(session, data),
        system.folder,
        system.environment_variables(session, data),
        system.ports,
        LOGS / f"{system.name}-{session}-paired.log",
    )
    try:
        first_answer(running, Endpoint(system.port, system.dialect, data.model + system.suffix, data))
        yield running
    finally:
        for left in running.stop(system.stopped_by):
            console.print(f"{system.name} left behind: {left}", style="red")


def _turns(
    checkouts: Sequence[System],
    running: Sequence[Running],
    workload: Workload,
    data: ModelData,
    *,
    pairs: int,
    seconds: float,
) -> Iterator[tuple[Turn, Turn]]:
    """Yield pairs of turns, this tree first. They alternate in who begins; the first pair warms up and is left out."""
    ends = [Endpoint(one.port, workload.dialects(one)[0], data.model + one.suffix, data) for one in checkouts]
    requests = [[end.request(index) for index in range(models.LOADED)] for end in ends]
    for number in range(pairs + 1):
        found: dict[int, Turn] = {}
        for index in (0, 1) if number % 2 else (1, 0):
            cpu = running[index].cpu_seconds()
            figures = load.wrk(ends[index].url, requests[index], workload.connections, seconds)
            if figures.errors:
                raise SystemExit(f"{checkouts[index].name} failed {figures.errors} requests of {workload.name}")
            cpu = running[index].cpu_seconds() - cpu
            found[index] = Turn(figures.rate, cpu / figures.requests * 1e6)
        if number:
            yield found[0], found[1]


def _show(workload: Workload, turns: Sequence[tuple[Turn, Turn]]) -> None:
    for name, unit in (("rate", "requests/s"), ("cpu_us", "CPU µs per request")):
        values = [(getattr(mine, name), getattr(other, name)) for mine, other in turns]
        found = ratio(values)
        mine, other = (median(column) for column in zip(*values, strict=True))
        console.print(
            f"{workload.name}: {found.value:.3f} ({found.low:.3f} … {found.high:.3f}) × before; "
            f"{mine:,.0f} against {other:,.0f} {unit}",
            highlight=False,
        )


if __name__ == "__main__":
    typer.run(main)
