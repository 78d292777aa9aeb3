"""A pool in virtual time, for comparing bounds on batches in flight. It needs no event loop, only a heap of events."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol


class Bound(Protocol):
    """The interface of `app.serving.batching.concurrency.InFlightBound`."""

    @property
    def value(self) -> int: ...
    @property
    def rows_limit(self) -> int | None: ...

    def finished(self, rows: int, seconds: float, *, alone: bool, limiting: bool, now: float) -> None: ...


@dataclass
class Fixed:
    """A constant bound."""

    value: int
    rows_limit: int | None = None

    def finished(self, rows: int, seconds: float, *, alone: bool, limiting: bool, now: float) -> None:
        pass


@dataclass
class Pool:
    """Computes `slots` batches at a time, first come first served.

    A batch takes ``(base_s + rows * row_s) * slowness(now)``, times noise of mean 1, after a hop of `hop_s`.
    """

    slots: int
    base_s: float
    row_s: float
    hop_s: float = 0.0
    noise: float = 0.25
    slowness: Callable[[float], float] = lambda now: 1.0
    seed: int = 1
    busy: int = 0
    queue: deque[tuple[Flow, int, float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def seconds(self, rows: int, now: float) -> float:
        noise = self.random.lognormvariate(-(self.noise**2) / 2, self.noise)
        return (self.base_s + rows * self.row_s) * self.slowness(now) * noise


@dataclass(eq=False)
class Flow:
    """One model in one gateway: callers that send one row, wait for the answer, think, and send again.

    As in the batcher, up to `full_in_flight` batches may be in flight while at least half a batch waits.

    Results: `rows` answered after `count_from_s`, and the `bounds` in force at each answer.
    """

    bound: Bound
    callers: int
    think_s: float = 0.001
    max_rows: int = 1024
    starts_s: float = 0.0
    full_in_flight: int = 4
    waiting: deque[float] = field(default_factory=deque)
    in_flight: int = 0
    launches: int = 0
    rows: int = 0
    bounds: list[tuple[float, int]] = field(default_factory=list)

    @property
    def may_send(self) -> bool:
        if self.in_flight < self.bound.value:
            return True
        full = len(self.waiting) >= max(1, self.max_rows // 2)
        return full and self.bound.rows_limit is None and self.in_flight < self.full_in_flight

    def bound_between(self, start_s: float, end_s: float) -> float:
        """Return the mean bound at the answers between two times."""
        values = [value for when, value in self.bounds if start_s <= when < end_s]
        return sum(values) / len(values)


def run(pool: Pool, flows: list[Flow], until_s: float, count_from_s: float = 0.0) -> None:
    """Simulate until `until_s`."""
    events: list[tuple[float, int, Callable[[float], None]]] = []
    numbers: Iterator[int] = iter(range(10**9))

    def at(when: float, action: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(numbers), action))

    def arrive(flow: Flow, now: float) -> None:
        flow.waiting.append(now)
        launch(flow, now)

    def launch(flow: Flow, now: float) -> None:
        limit = flow.max_rows if flow.bound.rows_limit is None else min(flow.max_rows, flow.bound.rows_limit)
        while flow.waiting and flow.may_send:
            rows = min(len(flow.waiting), limit)
            for _ in range(rows):
                flow.waiting.popleft()
            flow.in_flight += 1
            flow.launches += 1
            number = flow.launches if flow.in_flight == 1 else 0
            at(now + pool.hop_s, partial(enter, flow, rows, now, number))

    def enter(flow: Flow, rows: int, started: float, number: int, now: float) -> None:
        pool.queue.append((flow, rows, started, number))
        serve(now)

    def serve(now: float) -> None:
        while pool.queue and pool.busy < pool.slots:
            flow, rows, started, number = pool.queue.popleft()
            pool.busy += 1
            done = now + pool.seconds(rows, now)
            at(done, leave)
            at(done, partial(finish, flow, rows, started, number))

    def leave(now: float) -> None:
        pool.busy -= 1
        serve(now)

    def finish(flow: Flow, rows: int, started: float, number: int, now: float) -> None:
        alone = number == flow.launches
        limiting = bool(flow.waiting) and flow.in_flight >= flow.bound.value
        flow.in_flight -= 1
        flow.bound.finished(rows, now - started, alone=alone, limiting=limiting, now=now)
        flow.bounds.append((now, flow.bound.value))
        if now >= count_from_s:
            flow.rows += rows
        for _ in range(rows):
            think = pool.random.expovariate(1 / flow.think_s) if flow.think_s else 0.0
            at(now + think, partial(arrive, flow))
        launch(flow, now)

    for flow in flows:
        for index in range(flow.callers):
            at(flow.starts_s + index * 1e-5, partial(arrive, flow))
    while events and events[0][0] <= until_s:
        when, _, action = heapq.heappop(events)
        action(when)
