"""The model metrics of a gateway replica on Ray's metrics port, beside Ray's own.

Every sample becomes a gauge with the name ``ray_`` and its own: Ray has no histograms that take counts, and what rises
as a counter does may be read by ``rate``.
"""

from __future__ import annotations

import asyncio
import logging

from prometheus_client.samples import Sample
from ray.util.metrics import Gauge

from app.metrics.fleet import own_families

log = logging.getLogger(__name__)

_EVERY_S = 10.0
_OWN = "ml_serve_"


class RayMetrics:
    """Copies the metrics of this process to Ray's, every ten seconds, in a thread."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to copy; needs a running event loop."""
        self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.to_thread(self._copy)
            except Exception:
                log.exception("metrics not copied to Ray, retrying: retry_s=%g", _EVERY_S)

    def _copy(self) -> None:
        for family in own_families():
            if family.name.startswith(_OWN):
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        self._set(sample, family.documentation)

    def _set(self, sample: Sample, text: str) -> None:
        gauge = self._gauges.get(sample.name)
        if gauge is None:
            gauge = self._gauges[sample.name] = Gauge(sample.name, text, tuple(sample.labels))
        gauge.set(sample.value, sample.labels)
