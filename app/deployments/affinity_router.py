"""Routing of calls to pool replicas. Serve creates one `AffinityRouter` in every process that holds a pool's handle.

A version lives on few replicas, so that a pool holds more models than one replica can. Rendezvous hashing
(`app.serving.placement.rendezvous`) assigns versions to replicas, with the same result in replicas and routers.
`ModelPool.record_routing_stats` reports the versions that a replica has loaded.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from app.serving.placement.load import CallNote
from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelVersion

HELD = "held"
"""Key of the loaded versions in a replica's routing statistics."""


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Sends a call for a version to the least loaded of the replicas that share it.

    These are the first holders by the version's ranks, as many as the call's note says. A new replica gets calls once
    it holds the version; until then, the replica that it replaces keeps them. If no replica holds the version, all
    calls go to the first one by rank, which loads it once. Replicas that accept no more calls are skipped.

    The router reads the version from the call's arguments, so callers need no handle per version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._members: frozenset[str] = frozenset()
        self._by_member: dict[str, RunningReplica] = {}
        self._held: dict[ReplicaID, frozenset[ModelVersion]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take new replicas or new routing statistics from Serve."""
        super().update_replicas(replicas)
        self._place(replicas)
        self._held = {
            replica.replica_id: frozenset(ModelVersion(*version) for version in replica.routing_stats.get(HELD, ()))
            for replica in replicas
        }

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Drop a replica that a call found dead, before Serve's controller knows."""
        super().on_replica_actor_died(replica_id)
        self._place([replica for replica in self._by_member.values() if replica.replica_id != replica_id])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return ranks of replicas. Serve takes the least loaded replica of the first rank that has a free one."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # else Serve retries without a pause
        version = pending_request.args[0] if pending_request.args else None
        if not isinstance(version, ModelVersion):
            return [_shuffled(candidate_replicas)]
        note: CallNote = pending_request.args[-1]
        order = [self._by_member[member] for member in ranked(self._members, version)]
        holders = [replica for replica in order if version in self._held[replica.replica_id]]
        if not holders:
            return [order[:1], order[1:]]
        others = [replica for replica in order if replica not in holders]
        return [_shuffled(holders[: note.copies]), holders[note.copies :], others]

    def _place(self, replicas: list[RunningReplica]) -> None:
        self._by_member = {replica.replica_id.unique_id: replica for replica in replicas}
        self._members = frozenset(self._by_member)


def _shuffled(replicas: list[RunningReplica]) -> list[RunningReplica]:
    # Of equally loaded replicas Serve takes the first.
    return random.sample(replicas, len(replicas))
