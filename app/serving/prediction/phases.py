"""Phases of observed requests: around one piece of work, and of the parts of a request that share batches with others.

A request that is not observed has no `Observation`, and costs a comparison with None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from app.serving.batching.chunking import Piece
from app.serving.ports import Observation, Phase
from app.serving.rows import Rows


@contextmanager
def phase(observation: Observation | None, name: str) -> Iterator[Phase | None]:
    """Make what happens inside a phase of the request, if it is observed."""
    if observation is None:
        yield None
        return
    begun = observation.begin(name)
    try:
        yield begun
    except BaseException as error:
        begun.end(error)
        raise
    begun.end()


class _Observed(NamedTuple):
    rows: Rows
    observation: Observation
    wait: Phase


class ObservedParts:
    """The parts of observed requests in a batcher, from their submission to the end of their request.

    A batch runs in an empty context and belongs to several requests. So each observed request has a phase of its own
    for the same call: what is found out about one request is complete without the others, which may not be observed.

    Attributes:
        parts: by the identity of their rows. Empty as long as no request is observed.
    """

    def __init__(self) -> None:
        self.parts: dict[int, _Observed] = {}

    def add(self, rows: Rows, observation: Observation) -> None:
        """Begin the wait of a part."""
        self.parts[id(rows)] = _Observed(rows, observation, observation.begin("queue"))

    def added(self, pieces: Iterable[Piece[Rows]], observation: Observation) -> Iterator[Piece[Rows]]:
        """Begin the wait of each piece as it is submitted."""
        for piece in pieces:
            self.add(piece.payload, observation)
            yield piece

    def forget(self, observation: Observation) -> None:
        """End the waits of a request that is answered or has failed."""
        for key, part in [*self.parts.items()]:
            if part.observation is observation:
                del self.parts[key]
                part.wait.end()

    @contextmanager
    def call(self, batch: Sequence[Rows]) -> Iterator[list[Phase]]:
        """End the waits of a batch's observed parts, and make what happens inside the phase ``call`` of each one."""
        found = [part for rows in batch if (part := self.parts.get(id(rows))) is not None]
        for part in found:
            part.wait.end()
        calls = [part.observation.begin("call") for part in found]
        facts = {"batch_requests": len(batch), "batch_rows": sum(rows.count for rows in batch)}
        try:
            yield calls
        except BaseException as error:
            for one in calls:
                one.end(error, facts)
            raise
        for one in calls:
            one.end(None, facts)
