"""Watches versions that have just begun to answer, and moves their alias back where the model's rule says so.

Off unless a registered model has the tag ``serving.rollback`` (`app.serving.releases.rollback_policy`). Each action
is recorded in
the tag ``serving.rollback.last``. Runs in `app.deployments.releases`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias

from app.control.promotions import ReleaseWriter
from app.errors import ServingError
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelVersion
from app.serving.releases import rollback_policy
from app.serving.releases.alias_state import BARE, Live
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.rollback_policy import RollbackRule, Sample

log = logging.getLogger(__name__)

LAST_TAG = "serving.rollback.last"
_PERIOD_S = 5.0
_SHORTEST_PERIOD_S = 0.5
_PERIODS_PER_WINDOW = 20


_Switch: TypeAlias = tuple[str, str, str, float]
"""Model, alias, the version that it was switched to, and when by the clock of `Live`."""


def _switch(name: str, alias: str, live: Live) -> _Switch:
    return name, alias, live.version, live.since


class RollbackWatch:
    """Not thread-safe: it lives on the event loop of `Releases`.

    Args:
        book: what is served.
        writer: moves aliases.
        count: what all gateway replicas have counted for a version.
        watched_s: seconds after a switch for which the new version is watched; longer where the rule's window is.
    """

    def __init__(
        self,
        book: ReleaseBook,
        writer: ReleaseWriter,
        count: Callable[[ModelVersion], Awaitable[Statistics]],
        *,
        watched_s: float,
    ) -> None:
        self._book = book
        self._writer = writer
        self._count = count
        self._watched_s = watched_s
        self._samples: dict[ModelVersion, deque[Sample]] = {}
        self._switches: dict[_Switch, float] = {}

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            shortest = min((rule.window_s for rule in self._rules().values()), default=math.inf)
            await asyncio.sleep(min(_PERIOD_S, max(_SHORTEST_PERIOD_S, shortest / _PERIODS_PER_WINDOW)))
            try:
                await self.look()
            except Exception:
                log.exception("versions under a rule for rollback are not watched now")

    async def look(self) -> None:
        """Sample once, and roll back what has to be."""
        rules = self._rules()
        watched = {name: self._aliases(name) for name in rules}
        now = time.monotonic()
        self._switches = {
            switch: self._switches.get(switch, now)
            for name, aliases in watched.items()
            for switch in (_switch(name, alias, live) for alias, live in aliases.items())
        }
        versions = {
            ModelVersion(name, number)
            for name, aliases in watched.items()
            for live in aliases.values()
            for number in (live.version, live.previous)
            if number is not None
        }
        self._samples = {version: samples for version, samples in self._samples.items() if version in versions}
        for version in sorted(versions):
            await self._sample(version, window_s=rules[version.name].window_s)
        for name, aliases in watched.items():
            for alias, live in aliases.items():
                reason = self._reason(name, alias, live, rules[name])
                if reason is not None:
                    await self._roll_back(name, alias, live, reason)

    def _rules(self) -> dict[str, RollbackRule]:
        found = {name: self._book.tags(name).rollback for name in self._book.models}
        return {name: rule for name, rule in found.items() if rule is not None}

    def _aliases(self, name: str) -> dict[str, Live]:
        return {alias: live for alias, live in self._book.live.of(name).items() if alias != BARE}

    async def _sample(self, version: ModelVersion, *, window_s: float) -> None:
        found = await self._count(version)
        sample = Sample(
            time.monotonic(),
            found.requests + found.faults,
            found.faults,
            found.request_seconds,
            found.replicas,
            found.request_seconds_squared,
        )
        rollback_policy.keep(self._samples.setdefault(version, deque()), sample, window_s)

    def _reason(self, name: str, alias: str, live: Live, rule: RollbackRule) -> str | None:
        """Why to go back; None also where there is nothing to go back to, or the switch is an old story.

        What the new version did before the switch, as another alias or when it was tried before, does not count.
        """
        if live.previous is None or live.back or time.time() - live.since > max(self._watched_s, 2 * rule.window_s):
            return None
        new, old = (self._samples[ModelVersion(name, number)] for number in (live.version, live.previous))
        switched = self._switches[_switch(name, alias, live)]
        since = [sample for sample in new if sample.time >= switched]
        return rollback_policy.reason(rule, since, list(old), old_version=live.previous, now=time.monotonic())

    async def _roll_back(self, name: str, alias: str, live: Live, reason: str) -> None:
        record = {
            "alias": alias,
            "from": live.version,
            "to": live.previous,
            "reason": reason,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            switch = await self._writer.rollback(name, alias, f"rolled back by rule: {reason}", leaving=live.version)
            if not switch.changed:
                log.warning("'%s@%s' does not go back: it is on the way to another version: %s", name, alias, reason)
                return
            log.warning("'%s@%s' went back from version %s to %s: %s", name, alias, live.version, live.previous, reason)
            await self._writer.tell(name, LAST_TAG, json.dumps(record))
        except ServingError as error:
            log.warning("'%s@%s' is not moved back now: %s", name, alias, error.message)
