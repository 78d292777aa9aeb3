"""`Session`: one system from start to stop, with the workloads that it is measured with in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks import load, models
from benchmarks.checker import NO_ANSWER, Checker, Checks, check
from benchmarks.dialects import Dialect
from benchmarks.endpoint import Asker, Endpoint, WrongAnswer
from benchmarks.load import Figures
from benchmarks.models import ModelData
from benchmarks.paths import LOGS
from benchmarks.processes import Failed, Running
from benchmarks.record import Record
from benchmarks.systems import System
from benchmarks.workloads import Workload

_START_S = 240.0
_SURE = 16
"""Answers that are looked at before a load and after it."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is measured between one start and the next stop.

    Args:
        name: of the session; the model's data is called so too.
        turn: the round, from 0.
        seconds: length of each measurement.
        warm_up: seconds of the same load before it.
    """

    system: System
    name: str
    workloads: Sequence[Workload]
    turn: int
    seconds: float
    warm_up: float

    def run(self, note: Callable[[str], None]) -> Iterator[Record]:
        """The measurements, one after the other.

        Args:
            note: is told what the system left behind.

        Raises:
            Failed: the system does not start, or does not answer rightly.
        """
        system, data = self.system, models.read(self.name)
        running = Running(
            [system.filled(part, data) for part in system.command],
            system.folder,
            system.environment_variables(self.name, data),
            system.ports,
            LOGS / f"{system.name}-{self.name}-{self.turn}.log",
        )
        try:
            first = self.workloads[0]
            start_s = _first_answer(running, self._endpoint(first, first.dialects(system)[0], data))
            for workload in self.workloads:
                for dialect in workload.dialects(system):
                    yield self._measure(running, workload, self._endpoint(workload, dialect, data), start_s)
        finally:
            left = running.stop(system.stopped_by)
            if left:
                note(f"{system.name} left behind: {', '.join(left)}")

    def _endpoint(self, workload: Workload, dialect: Dialect, data: ModelData) -> Endpoint:
        port = self.system.grpc_port if dialect.grpc else self.system.port
        return Endpoint(port, dialect, data.model + self.system.ending, data, workload.rows)

    def _measure(self, running: Running, workload: Workload, endpoint: Endpoint, start_s: float) -> Record:
        """Check, warm up, load with the checker beside it, check again."""
        sent = models.TABLES - 1 if workload.rows > 1 else models.LOADED
        requests, checked = [endpoint.request(index) for index in range(sent)], range(sent, endpoint.count)
        send = _sender(workload, endpoint)
        with Asker(endpoint) as asker:
            before = Checks()
            for index in checked[:_SURE]:
                check(asker, index, before)
            if before.first:
                raise Failed(f"{workload.name}: not answered rightly before the load: {before.first}")
            if self.warm_up:
                send(requests, self.warm_up)
            cpu = running.cpu_seconds()
            with Checker(endpoint, checked) as checker:
                figures = send(requests, self.seconds)
            cpu = running.cpu_seconds() - cpu
            for index in checked[:_SURE]:
                check(asker, index, checker.checks)
        return Record(
            system=self.system.name,
            workload=workload.name,
            dialect=endpoint.dialect.name,
            turn=self.turn,
            start_s=start_s,
            cores=cpu / figures.seconds,
            memory=running.memory(),
            checks=asdict(checker.checks),
            figures=figures,
        )


def _sender(workload: Workload, endpoint: Endpoint) -> Callable[[Sequence[load.Request], float], Figures]:
    """The generator that the workload needs."""
    port, connections, rate = endpoint.port, workload.connections, workload.rate
    if rate is not None:
        return lambda requests, seconds: load.at_rate(port, requests, connections, seconds, rate)
    if workload.rows > 1:
        over_grpc = endpoint.dialect.grpc
        return lambda requests, seconds: load.closed(port, requests, connections, seconds, over_grpc=over_grpc)
    return lambda requests, seconds: load.wrk(endpoint.url, requests, connections, seconds)


def _first_answer(running: Running, endpoint: Endpoint) -> float:
    """Seconds from the start until the first right answer."""
    last = ""

    def answers() -> bool:
        nonlocal last
        try:
            with Asker(endpoint) as asker:
                asker.ask(endpoint.count - 1)
        except (*NO_ANSWER, WrongAnswer) as error:
            last = str(error)
            return False
        return True

    try:
        return running.wait_for(answers, _START_S)
    except Failed as error:
        raise Failed(f"{last}; {error}") from None
