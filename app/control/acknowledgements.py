"""Which release table each gateway replica answers by, as `app.deployments.releases` hears from their long polls."""

from __future__ import annotations

import time
from typing import NamedTuple


class _Known(NamedTuple):
    epoch: int
    at: float


class GatewayEpochs:
    """Not thread-safe.

    Args:
        ttl_s: seconds after which a gateway that is not heard of counts as gone.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._gateways: dict[str, _Known] = {}

    def heard_of(self, gateway_id: str, epoch: int) -> None:
        """The gateway has taken the table of this epoch; -1 where it is one of an earlier term."""
        self._gateways[gateway_id] = _Known(epoch, time.monotonic())

    def left(self, gateway_id: str) -> None:
        """The gateway ends: nobody waits for it any more."""
        self._gateways.pop(gateway_id, None)

    def have_reached(self, epoch: int) -> bool:
        """Whether all gateways that live answer by this table, or a later one."""
        oldest = time.monotonic() - self._ttl_s
        self._gateways = {key: known for key, known in self._gateways.items() if known.at > oldest}
        return all(known.epoch >= epoch for known in self._gateways.values())
