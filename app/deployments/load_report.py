"""Reports of a pool member's load to `Releases`, which sets the number of copies of each version by them."""

from __future__ import annotations

import asyncio
import logging
import time

from app.deployments.releases import Releases
from app.deployments.rpc import Remote
from app.serving.placement.load import BusyMeter, BusySample

log = logging.getLogger(__name__)

_EVERY_S = 5.0


async def report_load(releases: Remote, member_id: str, meter: BusyMeter) -> None:
    """Report the busy threads of each version every few seconds, until cancelled."""
    sample = BusySample(meter, time.monotonic)
    was_busy = False
    while True:
        await asyncio.sleep(_EVERY_S)
        busy = sample.take()
        if not busy and not was_busy:
            continue
        try:
            await releases.call(Releases.worked, member_id, busy)
            was_busy = bool(busy)
        except Exception as error:
            log.warning("load report failed, retrying: retry_s=%g error=%s", _EVERY_S, error)
