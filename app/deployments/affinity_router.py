"""`AffinityRouter`: which replica of a pool gets a call. Serve makes one in every process that holds the pool's handle.

A version lives on few replicas, so that a pool holds more models than one replica could, and its calls go where it
is. Which replicas these should be follows from the ring (`app.serving.placement.rendezvous`), the same for the
members of the pool,
which load their share, as for all routers; which have it now is what they say themselves
(`ModelPool.record_routing_stats`).
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from app.serving.placement.load import CallNote
from app.serving.placement.rendezvous import Ring
from app.serving.references import ModelVersion

HELD = "held"
"""Key of the routing statistics under which a replica lists the versions that it holds."""

_ANY_NOTE = CallNote()


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Sends a call for a version to the least loaded of the replicas that share it.

    They are the first ones on the version's ring that hold it, as many as the call's note says. A new replica gets its
    calls when it holds the version, and one that has lost its place keeps getting them until then. Where nobody holds
    it, all go to the first on the ring, which loads it once. Those that take no more calls are passed over.

    The version is read from the call's own arguments, so that nothing has to be added to a handle per version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ring = Ring(())
        self._by_member: dict[str, RunningReplica] = {}
        self._held: dict[ReplicaID, frozenset[ModelVersion]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve whenever replicas come or go, or one of them reports something new."""
        super().update_replicas(replicas)
        self._placed(replicas)
        self._held = {
            replica.replica_id: frozenset(ModelVersion(*version) for version in replica.routing_stats.get(HELD, ()))
            for replica in replicas
        }

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Called by Serve when a call has met a dead replica, before its controller knows."""
        super().on_replica_actor_died(replica_id)
        self._placed([replica for replica in self._by_member.values() if replica.replica_id != replica_id])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas; Serve takes the one with the fewest calls of the first rank that has one free."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else Serve tries again without a pause
        version = pending_request.args[0] if pending_request.args else None
        if not isinstance(version, ModelVersion):
            return [_shuffled(candidate_replicas)]
        note = pending_request.args[-1]
        copies = note.copies if isinstance(note, CallNote) else _ANY_NOTE.copies
        order = [self._by_member[member] for member in self._ring.ranked(version)]
        holders = [replica for replica in order if version in self._held[replica.replica_id]]
        if not holders:
            return [order[:1], order[1:]]
        others = [replica for replica in order if replica not in holders]
        return [_shuffled(holders[:copies]), holders[copies:], others]

    def _placed(self, replicas: list[RunningReplica]) -> None:
        self._by_member = {replica.replica_id.unique_id: replica for replica in replicas}
        if self._ring.members != self._by_member.keys():
            self._ring = Ring(self._by_member)


def _shuffled(replicas: list[RunningReplica]) -> list[RunningReplica]:
    """In any order: of those with equally few calls Serve takes the first."""
    return random.sample(replicas, len(replicas))
