"""`Session`: start a system, measure its workloads, stop it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import load, many, models
from benchmarks.checker import Checker, Checks, check
from benchmarks.dialects import Dialect, Request
from benchmarks.endpoint import NO_ANSWER, Asker, Endpoint, Question, WrongAnswer
from benchmarks.load import Figures
from benchmarks.models import ModelData
from benchmarks.paths import LOGS
from benchmarks.processes import Failed, Running
from benchmarks.record import Record
from benchmarks.systems import MANY_BYTES, System
from benchmarks.workloads import Workload

_START_S = 240.0
_SURE = 16
"""Number of answers to check before a load and after it."""
_MANY_REQUESTS = 20_000

Send = Callable[[float], tuple[Figures, dict[str, Any]]]
"""Send the load for this many seconds; returns the figures and further facts."""


@dataclass(frozen=True, slots=True)
class Session:
    """All measurements between a start and the next stop.

    Args:
        name: name of the session and of its data.
        turn: the round, from 0.
        seconds: length of each measurement.
        warm_up: seconds of the same load before each measurement.
    """

    system: System
    name: str
    workloads: Sequence[Workload]
    turn: int
    seconds: float
    warm_up: float

    def run(self, note: Callable[[str], None]) -> Iterator[Record]:
        """Yield the measurements, one after the other.

        Args:
            note: called with a sentence about processes that the system left behind.

        Raises:
            Failed: the system does not start, or answers wrongly.
        """
        system, data = self.system, models.read(models.data_of(self.name))
        if self.name == "start":
            shutil.rmtree(system.home(self.name), ignore_errors=True)
        running = Running(
            system.command_in(self.name, data),
            system.folder,
            system.environment_variables(self.name, data),
            system.ports,
            LOGS / f"{system.name}-{self.name}-{self.turn}.log",
        )
        try:
            first = self.workloads[0]
            start_s = first_answer(running, self._endpoint(first, first.dialects(system)[0], data))
            for workload in self.workloads:
                for dialect in workload.dialects(system):
                    yield self._measure(running, workload, self._endpoint(workload, dialect, data), start_s)
        finally:
            left = running.stop(system.stopped_by)
            if left:
                note(f"{system.name} left behind: {', '.join(left)}")

    def _endpoint(self, workload: Workload, dialect: Dialect, data: ModelData) -> Endpoint:
        port = self.system.grpc_port if dialect.grpc else self.system.port
        return Endpoint(port, dialect, data.model + self.system.suffix, data, workload.rows)

    def _measure(self, running: Running, workload: Workload, endpoint: Endpoint, start_s: float) -> Record:
        """Check, warm up, load with the checker in a thread, check again."""
        record = Record(self.system.name, workload.name, endpoint.dialect.name, self.turn, start_s)
        if workload.kind == "start":
            return replace(record, memory=running.memory())
        send, questions = {"many": _many, "grown": _grown}.get(workload.kind, _one)(workload, endpoint)
        with Asker() as asker:
            before = Checks()
            for question in questions if workload.kind in ("grown", "many") else questions[:_SURE]:
                check(asker, question, before)
            if before.first:
                raise Failed(f"{workload.name}: wrong answer before the load: {before.first}")
            if self.warm_up:
                send(self.warm_up)
            cpu = running.cpu_seconds()
            with Checker(questions) as checker:
                figures, extra = send(self.seconds)
            cores = (running.cpu_seconds() - cpu) / figures.seconds
            for question in questions[:_SURE]:
                check(asker, question, checker.checks)
        return replace(
            record, cores=cores, memory=running.memory(), checks=asdict(checker.checks), figures=figures, extra=extra
        )


def _one(workload: Workload, endpoint: Endpoint) -> tuple[Send, list[Question]]:
    """Return the load on one model, and questions about rows that the load does not send."""
    sent = models.TABLES - 1 if workload.kind == "table" else models.LOADED
    requests = [endpoint.request(index) for index in range(sent)]
    port, connections, rate = endpoint.port, workload.connections, workload.rate

    def send(seconds: float) -> tuple[Figures, dict[str, Any]]:
        if rate is not None:
            return load.summarize(load.at_rate(port, requests, connections, seconds, rate)), {}
        if workload.kind == "row" and endpoint.dialect.grpc:
            return load.h2load(port, requests[0], connections, seconds), {}
        if workload.kind == "row":
            return load.wrk(endpoint.url, requests, connections, seconds), {}
        samples = load.closed(port, requests, connections, seconds, over_grpc=endpoint.dialect.grpc)
        return load.summarize(samples), {}

    return send, [(endpoint, index) for index in range(sent, endpoint.count)]


def _many(workload: Workload, endpoint: Endpoint) -> tuple[Send, list[Question]]:
    """Return the load on all hundred models, and questions to them: one to each, which loads it, and popular ones."""
    names = models.many_names()
    endpoints = [replace(endpoint, name=name, data=models.read(name)) for name in names]
    requests: list[Request] = []
    asked: list[str] = []
    for turn, model in enumerate(many.choices(len(names), _MANY_REQUESTS)):
        requests.append(endpoints[model].request(turn % models.LOADED))
        asked.append(names[model])

    def send(seconds: float) -> tuple[Figures, dict[str, Any]]:
        with many.Residency(endpoint.url) as residency:
            samples = load.closed(endpoint.port, requests, workload.connections, seconds)
        return load.summarize(samples), many.facts(samples, asked, residency, MANY_BYTES)

    chosen = [*range(len(names)), *many.choices(len(names), models.CHECKED)]
    return send, [(endpoints[model], models.LOADED + turn % models.CHECKED) for turn, model in enumerate(chosen)]


def _grown(workload: Workload, endpoint: Endpoint) -> tuple[Send, list[Question]]:
    """Return the load on some models in turn, and a question to each, which loads it."""
    endpoints = [replace(endpoint, name=name) for name in models.grown_names()[: workload.models]]
    turns = range(max(len(endpoints), models.LOADED))
    requests = [endpoints[turn % len(endpoints)].request(turn % models.LOADED) for turn in turns]

    def send(seconds: float) -> tuple[Figures, dict[str, Any]]:
        return load.wrk(endpoint.url, requests, workload.connections, seconds), {}

    return send, [(one, models.LOADED + turn % models.CHECKED) for turn, one in enumerate(endpoints)]


def first_answer(running: Running, endpoint: Endpoint) -> float:
    """Return the seconds from the start to the first correct answer."""
    last = ""

    def answers() -> bool:
        nonlocal last
        try:
            with Asker() as asker:
                asker.ask((endpoint, endpoint.count - 1))
        except (*NO_ANSWER, WrongAnswer) as error:
            last = str(error)
            return False
        return True

    try:
        return running.wait_for(answers, _START_S)
    except Failed as error:
        raise Failed(f"{last}; {error}") from None
