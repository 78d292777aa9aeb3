"""The control loop of `Releases`: it holds the state, reconciles it after each event, and has the effects done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from app.control.snapshot import Snapshot, decode, encode
from app.serving.releases.observed import Observed
from app.serving.releases.reconciler import reconcile
from app.serving.releases.release_state import Now, ReleaseSettings, ReleaseState
from app.serving.releases.table import ReleaseTable

log = logging.getLogger(__name__)

_ACKNOWLEDGED_S = 5.0


class ControlLoop:
    """Events come in as functions of `Observed`; `state` goes out. Not thread-safe: it lives on one event loop.

    Args:
        snapshot: where the state outlives a restart.
        term: distinguishes this life of `Releases` from earlier ones.
        gateway_ttl_s: seconds of silence after which a gateway counts as gone.
        clock: the time now.

    Attributes:
        live_tags: per model the tag ``serving.live`` to write; its writer removes it.
        changed: set after each event.
    """

    def __init__(
        self,
        settings: ReleaseSettings,
        snapshot: Snapshot | None = None,
        *,
        term: int = 0,
        gateway_ttl_s: float = 45.0,
        clock: Callable[[], Now] = lambda: Now(time.monotonic(), time.time()),
    ) -> None:
        self.settings = settings
        self.state = ReleaseState(ReleaseTable(term))
        self.live_tags: dict[str, str] = {}
        self.changed = asyncio.Event()
        self._snapshot = snapshot
        self._unsaved = True
        self.clock = clock
        self._news = asyncio.Condition()
        self._gateway_ttl_s = gateway_ttl_s
        self._gateways: dict[str, tuple[int, float]] = {}
        if snapshot is not None and snapshot.content:
            try:
                self.state = decode(snapshot.content, self.state, clock(), settings)
            except (AttributeError, KeyError, TypeError, ValueError):
                log.exception("failed to understand the snapshot, starting from the registry")
        self._reconcile(self.state.observed)

    async def observe(self, event: Callable[[Observed], Observed] = lambda observed: observed) -> None:
        """Take an event over, reconcile, wake waiting callers, and save the state."""
        self._reconcile(event(self.state.observed))
        await self._wake()
        if self._unsaved and self._snapshot is not None:
            self._unsaved = False  # before the write: what changes during it is written next
            if not await self._snapshot.write(encode(self.state)):
                self._unsaved = True

    def note(self, event: Callable[[Observed], Observed]) -> None:
        """Take an event over that counts with the next one: not of models, whose changes must be seen."""
        self.state = replace(self.state, observed=event(self.state.observed))

    async def until(self, condition: Callable[[ReleaseState], bool], timeout_s: float | None = None) -> None:
        """Return once the state meets a condition. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: condition(self.state))

    async def acknowledged(self) -> None:
        """Return once every gateway answers by the current table, or after a while where one is silent."""
        epoch = self.state.table.epoch
        try:
            await self.until(lambda _: self.gateways_have(epoch), _ACKNOWLEDGED_S)
        except TimeoutError:
            log.warning("a gateway replica has not taken table %d within %g s", epoch, _ACKNOWLEDGED_S)

    async def gateway_has(self, gateway_id: str, epoch: int) -> None:
        """Note that a gateway answers by the table of an epoch; -1 for a table of an earlier term."""
        self._gateways[gateway_id] = epoch, self.clock().monotonic
        await self._wake()

    async def gateway_left(self, gateway_id: str) -> None:
        """Drop a gateway that has ended."""
        self._gateways.pop(gateway_id, None)
        await self._wake()

    def gateways_have(self, epoch: int) -> bool:
        """Whether all gateways that are alive answer by the table of this epoch, or a later one."""
        oldest = self.clock().monotonic - self._gateway_ttl_s
        self._gateways = {key: known for key, known in self._gateways.items() if known[1] > oldest}
        return all(known >= epoch for known, _ in self._gateways.values())

    def _reconcile(self, observed: Observed) -> None:
        self.state, effects = reconcile(self.state, observed, self.settings, self.clock())
        for name, problem in effects.problems:
            log.warning("model '%s': %s", name, problem)
        self.live_tags.update(effects.live_tags)
        self._unsaved = self._unsaved or effects.save
        self.changed.set()

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()
