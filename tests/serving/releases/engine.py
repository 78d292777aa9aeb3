"""The release engine without a deployment: events go in, each one is reconciled, the state comes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.control.snapshot import decode, encode
from app.serving.placement.pool_members import PoolPlan
from app.serving.placement.states import State, VersionState
from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.alias_state import Intent
from app.serving.releases.observed import Contract, Observed
from app.serving.releases.reconciler import reconcile
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.release_state import Effects, Now, ReleaseSettings, ReleaseState
from app.serving.releases.status import status_of
from app.serving.releases.table import ModelStatus, ReleaseTable

READY = VersionState("ready", None, 100, 5.0)
LOADING = VersionState("loading")
FAILED = VersionState("failed", "it is broken")
V1, V2, V3 = (ModelVersion("m", number) for number in "123")
ANY_INPUTS = Contract(None)


class Engine:
    """One life of the release engine; `now` is its clock, in seconds.

    Args:
        snapshot: what an earlier life has left.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str] = ("*",),
        pools: Mapping[str, PoolPlan] | None = None,
        keep_previous_s: float = 600.0,
        snapshot: Mapping[str, Any] | None = None,
        now: float = 1_000.0,
    ) -> None:
        self.now = now
        self.settings = ReleaseSettings(
            "champion", preload, pools or {"default": PoolPlan()}, keep_previous_s=keep_previous_s
        )
        self.state = ReleaseState()
        self.effects = Effects(save=False, live_tags={}, problems=())
        self.problems: list[tuple[str, str]] = []
        if snapshot is not None:
            self.state = decode(snapshot, self.state, self._clock(), self.settings)
            self.settle()

    @property
    def table(self) -> ReleaseTable:
        return self.state.table

    @property
    def snapshot(self) -> dict[str, Any]:
        """What this life leaves, through JSON."""
        snapshot: dict[str, Any] = json.loads(json.dumps(encode(self.state)))
        return snapshot

    def observe(self, event: Callable[[Observed], Observed]) -> bool:
        """Whether the table is another one."""
        epoch = self.table.epoch
        self.state, self.effects = reconcile(self.state, event(self.state.observed), self.settings, self._clock())
        self.problems += self.effects.problems
        return self.table.epoch != epoch

    def settle(self) -> bool:
        """Time has passed."""
        return self.observe(lambda observed: observed)

    def registry(self, *models: RegisteredModel) -> bool:
        """The whole registry was read."""
        return self.observe(lambda observed: replace(observed, models={model.name: model for model in models}))

    def report(
        self,
        member: str,
        states: Mapping[ModelVersion, VersionState],
        contracts: Mapping[ModelVersion, Contract] | None = None,
        pool: str = "default",
        orders: Mapping[ModelVersion, int] | None = None,
    ) -> bool:
        """A pool member reports what it holds; what is ready takes any inputs, unless it says otherwise.

        Args:
            orders: those it has carried out; all of them where that is not given.
        """
        if contracts is None:
            contracts = {version: ANY_INPUTS for version, state in states.items() if state.state == "ready"}
        known, done = contracts, self.table.orders() if orders is None else orders
        return self.observe(lambda observed: observed.reported(member, pool, states, known, orders=done, now=self.now))

    def left(self, member: str) -> bool:
        return self.observe(lambda observed: observed.left(member))

    def died(self, member: str) -> bool:
        return self.observe(lambda observed: observed.died(member))

    def pin(self, version: ModelVersion) -> bool:
        return self.observe(lambda observed: observed.pin(version))

    def unpin(self, version: ModelVersion) -> bool:
        return self.observe(lambda observed: replace(observed, requests=observed.requests.unpin(version)))

    def unload(self, version: ModelVersion) -> bool:
        return self.observe(lambda observed: observed.unload(version))

    def intend(self, alias: str, version: str, why: str, *, back: bool = False, name: str = "m") -> None:
        """This process is about to move an alias."""
        intent = Intent(version, why, back)
        self.observe(lambda observed: replace(observed, intents={**observed.intents, (name, alias): intent}))

    def answers(self, text: str = "m") -> str | None:
        """The version that answers a reference."""
        version = self.table.resolve(parse_ref(text))
        return version.version if version is not None else None

    def state_of(self, version: ModelVersion) -> State | None:
        return self.state.members.state(version)

    def status(self, name: str = "m") -> ModelStatus:
        return status_of(self.state, name, self.settings.default_alias)

    def _clock(self) -> Now:
        return Now(self.now, self.now)
