"""The lanes of one gateway replica to the replicas of `Features`."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from ray.serve.handle import DeploymentHandle

from app.deployments.features import Features
from app.deployments.rpc import Remote
from app.lanes.client import Lane
from app.lanes.server import LaneAddress

log = logging.getLogger(__name__)

_NAME = "the feature store"
_RETRY_S = 1.0
_LOOK_S = 10.0
"""Seconds after which replicas that have started since get a lane."""


class FeatureLanes:
    """Keeps a lane to each replica of `Features`, from the first read on. Use it on one event loop."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._features = Remote(handle, _NAME)
        self._lanes: dict[str, Lane] = {}
        self._task: asyncio.Task[None] | None = None

    def choose(self) -> Lane | None:
        """Return the least loaded lane, None where no replica takes calls over one."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), context=Context())
        return min((lane for lane in self._lanes.values() if lane.takes_calls), key=_calls, default=None)

    def close(self) -> None:
        """Close all lanes."""
        if self._task is not None:
            self._task.cancel()
        for lane in self._lanes.values():
            lane.close()

    async def _follow(self) -> None:
        while True:
            try:
                for address in await self._features.broadcast(Features.lane_address):
                    if address is not None and address.member not in self._lanes:
                        await self._open(address)
            except Exception:
                log.exception("lanes not opened, using the handle: deployment=%r", _NAME)
            await asyncio.sleep(_LOOK_S if self._lanes else _RETRY_S)

    async def _open(self, address: LaneAddress) -> None:
        try:
            self._lanes[address.member] = await Lane.connect(address, _NAME, self._lost)
        except OSError as error:
            log.warning(
                "lane not opened, using the handle: deployment=%r member=%s error=%s", _NAME, address.member, error
            )
            return
        log.info("lane opened: deployment=%r member=%s", _NAME, address.member)

    def _lost(self, lane: Lane) -> None:
        for member in [member for member, one in self._lanes.items() if one is lane]:
            del self._lanes[member]
            log.info("lane closed: deployment=%r member=%s", _NAME, member)


def _calls(lane: Lane) -> int:
    return lane.calls
