"""Phases of observed requests: around one piece of work, and of the parts of a request that share batches with others.

A request that is not observed has no `Observation`, and costs a comparison with None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from app.serving.batching.chunking import Piece
from app.serving.observation import Observation, Phase, TraceCarrier
from app.serving.rows import Rows


@contextmanager
def phase(observation: Observation | None, name: str) -> Iterator[tuple[TraceCarrier, ...]]:
    """Make what happens inside a phase of the request, if it is observed. Yields its span, if it is traced."""
    if observation is None:
        yield ()
        return
    begun = observation.begin(name)
    carrier = begun.carrier
    try:
        yield (carrier,) if carrier is not None else ()
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
    def call(self, batch: Sequence[Rows]) -> Iterator[tuple[TraceCarrier, ...]]:
        """End the waits of a batch's observed parts, and make what happens inside the phase ``call`` of each one.

        Yields the parents of what the pool traces: it makes a span below each one, so that each trace shows the whole
        way of its request. One span for all, with links, would be in the trace of one request and only be named in the
        others, and few viewers follow links.
        """
        found = [part for rows in batch if (part := self.parts.get(id(rows))) is not None]
        for part in found:
            part.wait.end()
        calls = [part.observation.begin("call") for part in found]
        facts = {"batch_requests": len(batch), "batch_rows": sum(rows.count for rows in batch)}
        try:
            yield tuple(carrier for one in calls if (carrier := one.carrier) is not None)
        except BaseException as error:
            for one in calls:
                one.end(error, facts)
            raise
        for one in calls:
            one.end(None, facts)
