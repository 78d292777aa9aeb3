"""The lanes of one gateway replica to the members of one pool, and the choice between them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextvars import Context

from ray.serve.handle import DeploymentHandle

from app.deployments.remotes import RemotePool
from app.deployments.rpc import Remote
from app.lanes.client import Lane
from app.lanes.server import LaneAddress
from app.metrics.lanes import LaneMetrics
from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelVersion

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_MOST_RETRY_S = 30.0


class PoolLanes:
    """Keeps a lane to each member of a pool that the release table names. Use it on one event loop.

    A batch goes to a member as `app.deployments.affinity_router` would send it: to the least loaded of the first
    holders of its version.

    Args:
        pool: the pool's name in the settings.
    """

    def __init__(self, pool: str, handle: DeploymentHandle, metrics: LaneMetrics) -> None:
        self._pool_name = pool
        self._metrics = metrics
        self._name = f"pool '{pool}'"
        self._pool = Remote(handle, self._name)
        self._members: frozenset[str] = frozenset()
        self._lanes: dict[str, Lane] = {}
        self._usable: frozenset[str] = frozenset()
        self._connecting: asyncio.Task[None] | None = None

    def choose(self, version: ModelVersion, copies: int) -> Lane | None:
        """Return the lane for a batch of a version; None, counted, where it has to take the handle.

        If no member holds the version, the first one by rank loads it, unless a member has no lane and may hold it.

        Args:
            copies: how many members share the calls for the version.
        """
        order = [self._lanes[member] for member in ranked(self._usable, version)]
        holders = [lane for lane in order if lane.takes_calls and version in lane.held][:copies]
        if not holders and len(order) == len(self._members):
            holders = [lane for lane in order if lane.takes_calls][:1]
        if not holders:
            self._metrics.by_handle(self._pool_name)
            return None
        if len(holders) == 1:
            return holders[0]
        return min(random.sample(holders, len(holders)), key=_calls)

    def follow(self, members: Iterable[str]) -> None:
        """Take the members that are alive: open lanes to new ones, and send no batches to others.

        Lanes to others stay open, because a `Releases` that has just started does not know its members yet.
        """
        before, self._members = self._members, frozenset(members)
        self._changed()
        if self._members - before and self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._connect_soon()

    def close(self) -> None:
        """Close all lanes."""
        self._members = frozenset()
        if self._connecting is not None:
            self._connecting.cancel()
        for lane in self._lanes.values():
            lane.close()

    def _connect_soon(self) -> None:
        if (self._connecting is None or self._connecting.done()) and self._missing():
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=Context())

    def _missing(self) -> frozenset[str]:
        return self._members.difference(self._lanes)

    async def _connect(self) -> None:
        """Open the missing lanes; wait longer after each try that leaves one, unless Serve knows no replica yet."""
        pause = _RETRY_S
        while True:
            addresses: list[LaneAddress | None] = []
            try:
                addresses = await self._pool.broadcast(RemotePool.lane_address)
                for address in addresses:
                    if address is not None and address.member in self._missing():
                        await self._open(address)
            except Exception:
                log.exception("lanes not opened, using the handle: pool=%r retry_s=%g", self._name, pause)
            if not self._missing():
                return
            await asyncio.sleep(pause)
            if addresses:
                pause = min(2 * pause, _MOST_RETRY_S)

    async def _open(self, address: LaneAddress) -> None:
        try:
            self._lanes[address.member] = await Lane.connect(address, self._name, self._lost)
        except OSError as error:
            log.warning(
                "lane not opened, using the handle: pool=%r member=%s error=%s", self._name, address.member, error
            )
            return
        self._changed()
        log.info("lane opened: pool=%r member=%s", self._name, address.member)

    def _lost(self, lane: Lane) -> None:
        for member in [member for member, one in self._lanes.items() if one is lane]:
            del self._lanes[member]
            log.info("lane closed: pool=%r member=%s", self._name, member)
        self._changed()
        self._connect_soon()  # the connection may be lost, and the member alive

    def _changed(self) -> None:
        self._usable = self._members.intersection(self._lanes)
        self._metrics.opened(self._pool_name, len(self._lanes))


def _calls(lane: Lane) -> int:
    return lane.calls
