"""Rolls an alias back where its new version does worse than the tag ``serving.rollback`` of the model allows.

Off without that tag (`app.serving.releases.rollback_policy`). The tag ``serving.rollback.last`` records each rollback.
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

from app.control.loop import ControlLoop
from app.control.promotions import Promotions
from app.control.registry_sync import RegistrySync
from app.errors import ServingError
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelVersion
from app.serving.releases import rollback_policy
from app.serving.releases.alias_state import BARE, AliasState
from app.serving.releases.rollback_policy import RollbackRule, Sample

log = logging.getLogger(__name__)

LAST_TAG = "serving.rollback.last"
_PERIOD_S = 5.0
_SHORTEST_PERIOD_S = 0.5
_PERIODS_PER_WINDOW = 20

_SwitchKey: TypeAlias = tuple[str, str, str, float]
"""Model, alias, the version that it switched to, and when, in seconds since 1970."""


class AutoRollback:
    """Watches versions after a switch. Not thread-safe.

    Args:
        count: returns what all gateway replicas have counted for a version.
        watched_s: seconds after a switch for which the new version is watched; longer where the rule's window is.
    """

    def __init__(
        self,
        loop: ControlLoop,
        registry: RegistrySync,
        promotions: Promotions,
        count: Callable[[ModelVersion], Awaitable[Statistics]],
        *,
        watched_s: float,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._promotions = promotions
        self._count = count
        self._watched_s = watched_s
        self._samples: dict[ModelVersion, deque[Sample]] = {}
        self._switched: dict[_SwitchKey, float] = {}

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            shortest = min((rule.window_s for rule in self._rules().values()), default=math.inf)
            await asyncio.sleep(min(_PERIOD_S, max(_SHORTEST_PERIOD_S, shortest / _PERIODS_PER_WINDOW)))
            try:
                await self.look()
            except Exception:
                log.exception("failed to watch versions with a rollback rule, trying again")

    async def look(self) -> None:
        """Sample once, and roll back where a rule says so."""
        rules, now = self._rules(), time.monotonic()
        watched = [
            (name, alias, state)
            for name in rules
            for alias, state in self._loop.state.aliases.get(name, {}).items()
            if alias != BARE
        ]
        keys = [_key(*one) for one in watched]
        self._switched = {key: self._switched.get(key, now) for key in keys}
        versions = {
            ModelVersion(name, number)
            for name, _, state in watched
            for number in (state.live, state.previous)
            if number is not None
        }
        self._samples = {version: samples for version, samples in self._samples.items() if version in versions}
        for version in sorted(versions):
            await self._sample(version, window_s=rules[version.name].window_s)
        for name, alias, state in watched:
            reason = self._reason(name, alias, state, rules[name])
            if reason is not None:
                await self._roll_back(name, alias, state, reason)

    def _rules(self) -> dict[str, RollbackRule]:
        return {name: tags.rollback for name, tags in self._loop.state.tags.items() if tags.rollback is not None}

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

    def _reason(self, name: str, alias: str, state: AliasState, rule: RollbackRule) -> str | None:
        """Return why to go back; None also where there is no previous version, or the switch is long ago.

        What the new version did before the switch, under another alias or in an earlier try, does not count.
        """
        if state.previous is None or state.back or time.time() - state.since > max(self._watched_s, 2 * rule.window_s):
            return None
        new, old = (self._samples[ModelVersion(name, number)] for number in (state.live, state.previous))
        switched = self._switched[_key(name, alias, state)]
        since = [sample for sample in new if sample.time >= switched]
        return rollback_policy.reason(rule, since, list(old), old_version=state.previous, now=time.monotonic())

    async def _roll_back(self, name: str, alias: str, state: AliasState, reason: str) -> None:
        record = {
            "alias": alias,
            "from": state.live,
            "to": state.previous,
            "reason": reason,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            why = f"rolled back by rule: {reason}"
            switch = await self._promotions.rollback(name, alias, why, leaving=state.live)
            if not switch.changed:
                log.warning("not rolled back: '%s@%s' is moving to another version: %s", name, alias, reason)
                return
            log.warning(
                "rolled back '%s@%s' from version %s to %s: %s", name, alias, state.live, state.previous, reason
            )
            await self._registry.set_tag(name, LAST_TAG, json.dumps(record))
        except ServingError as error:
            log.warning("failed to roll back '%s@%s', trying again: %s", name, alias, error.message)


def _key(name: str, alias: str, state: AliasState) -> _SwitchKey:
    return name, alias, state.live, state.since
