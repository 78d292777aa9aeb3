"""Load of one pool member: rows that wait for it and busy prediction threads, for autoscaling and for replication."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from app.serving.observation import TraceCarrier
from app.serving.references import ModelVersion

NOTE_TTL_S = 5.0
"""Seconds for which a sender's note counts. Senders with rows waiting send a new note with each batch."""


class Backlog(NamedTuple):
    """Rows that wait at a sender for one version, besides the batch that it sends."""

    rows: int = 0
    oldest_wait_s: float = 0.0


class CallNote(NamedTuple):
    """Note that a gateway replica, the `sender`, sends to a pool with each batch.

    `copies` is how many pool replicas share the calls for the version; the router reads it. `traces` are the spans of
    the sampled requests in the batch. `apart` has the replica run the batch in a worker, because another replica has
    ended while it ran it.
    """

    copies: int = 1
    sender: str = ""
    backlog: Backlog = Backlog()
    traces: tuple[TraceCarrier, ...] = ()
    apart: bool = False


class Waiting:
    """Rows that wait at all senders for this member, by each sender's last note. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._notes: dict[tuple[str, ModelVersion], tuple[float, CallNote]] = {}

    def note(self, version: ModelVersion, note: CallNote) -> None:
        """Take a sender's note, which replaces its last one for the version."""
        if note.backlog.rows:
            self._notes[note.sender, version] = (self._clock(), note)
        else:
            self._notes.pop((note.sender, version), None)

    @property
    def rows(self) -> float:
        """Waiting rows of all senders, each divided by the replicas that it may call."""
        return sum(note.backlog.rows / max(note.copies, 1) for _, note in self._fresh())

    @property
    def oldest_wait_s(self) -> float:
        """Longest wait of a row, in seconds."""
        return max((note.backlog.oldest_wait_s for _, note in self._fresh()), default=0.0)

    def _fresh(self) -> list[tuple[float, CallNote]]:
        oldest = self._clock() - NOTE_TTL_S
        self._notes = {key: kept for key, kept in self._notes.items() if kept[0] >= oldest}
        return list(self._notes.values())


class BusyMeter:
    """Seconds that prediction threads worked per version, work under way included. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._done: dict[ModelVersion, float] = defaultdict(float)
        self._running: dict[object, tuple[ModelVersion, float]] = {}

    @contextmanager
    def working(self, version: ModelVersion) -> Iterator[None]:
        """Measure the work of one thread."""
        key = object()
        started = self._clock()
        with self._lock:
            self._running[key] = (version, started)
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]
                self._done[version] += self._clock() - started

    def totals(self) -> dict[ModelVersion, float]:
        """Return the seconds per version since the meter was made."""
        with self._lock:
            now = self._clock()
            totals = dict(self._done)
            for version, started in self._running.values():
                totals[version] = totals.get(version, 0.0) + now - started
            return totals


class BusySample:
    """Average number of busy threads between two samples of a meter, by the meter's clock."""

    def __init__(self, meter: BusyMeter, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._clock = clock
        self._before: Mapping[ModelVersion, float] = {}
        self._at = clock()

    def take(self) -> dict[ModelVersion, float]:
        """Return the busy threads per version since the last sample, without idle versions."""
        now, totals = self._clock(), self._meter.totals()
        passed = max(now - self._at, 1e-3)
        busy = {version: (total - self._before.get(version, 0.0)) / passed for version, total in totals.items()}
        self._before, self._at = totals, now
        return {version: share for version, share in busy.items() if share > 0}
