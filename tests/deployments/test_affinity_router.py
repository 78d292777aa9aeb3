"""Serve's own router with our choice in it, over replicas that are only described: no Ray runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
    from ray.serve.request_router import PendingRequest, ReplicaID

    from app.deployments.affinity_router import HELD, AffinityRouter

from app.serving.placement.load import CallNote
from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelVersion

pytestmark = pytest.mark.filterwarnings("ignore")

POOL = DeploymentID("ModelPool-default", "ml-serve")
VERSION = ModelVersion("prices", "1")
ORDER = list(ranked(frozenset("abcd"), VERSION))


@dataclass
class Replica:
    """What a router knows of a running replica."""

    name: str
    routing_stats: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 0
    max_ongoing_requests: int = 10

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, POOL)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.calls


def router(*replicas: Replica) -> Any:
    made = AffinityRouter(POOL, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    made.update_replicas(list(replicas))
    return made


def holding(name: str, *versions: ModelVersion, calls: int = 0) -> Replica:
    return Replica(name, {HELD: [tuple(version) for version in versions]}, calls)


def pending(*args: Any) -> PendingRequest:
    return PendingRequest(list(args), {}, RequestMetadata(request_id="r", internal_request_id="i"))


async def ranks(made: Any, *args: Any) -> list[list[str]]:
    chosen = await made.choose_replicas(list(made.curr_replicas.values()), pending(*args))
    return [sorted(replica.name for replica in rank) for rank in chosen]


async def test_calls_go_to_the_first_copies_holders_on_the_ring() -> None:
    made = router(*(holding(name, VERSION) for name in "abcd"))
    assert (await ranks(made, VERSION, "batch", CallNote(2)))[0] == sorted(ORDER[:2])
    assert (await ranks(made, VERSION, CallNote(1)))[0] == ORDER[:1]


async def test_a_new_replica_gets_no_call_before_it_holds_the_version() -> None:
    new, *old = ORDER
    made = router(Replica(new), *(holding(name, VERSION) for name in old[:2]), holding(old[2]))
    assert (await ranks(made, VERSION, CallNote(2)))[0] == sorted(old[:2])
    made.update_replicas([holding(name, VERSION) for name in ORDER])
    assert (await ranks(made, VERSION, CallNote(2)))[0] == sorted(ORDER[:2])


async def test_a_version_without_holders_goes_to_one_replica_first() -> None:
    made = router(*(Replica(name) for name in "abcd"))
    assert await ranks(made, VERSION, CallNote(2)) == [ORDER[:1], sorted(ORDER[1:])]


async def test_a_dead_replica_is_skipped_at_once() -> None:
    made = router(*(holding(name, VERSION) for name in "abcd"))
    made.on_replica_actor_died(ReplicaID(ORDER[0], POOL))
    assert (await ranks(made, VERSION, CallNote(2)))[0] == sorted(ORDER[1:3])


async def test_a_call_without_a_version_may_go_to_any_replica() -> None:
    made = router(*(Replica(name) for name in "abcd"))
    assert await ranks(made) == [list("abcd")]


async def test_serve_takes_the_least_loaded_of_the_holders() -> None:
    made = router(*(holding(name, VERSION, calls=9 - index) for index, name in enumerate(ORDER)))
    for _ in range(5):
        replica = await made._choose_replica_for_request(pending(VERSION, CallNote(2)))
        assert replica.name == ORDER[1]
        made.on_send_request(ReplicaID(ORDER[0], POOL))
