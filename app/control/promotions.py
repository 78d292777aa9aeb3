"""Promote, rollback and traffic: written to the registry, where the alias is the commit point.

All else follows from what is written, as if somebody had done it in MLflow, so a crash between two steps loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import replace
from functools import partial, reduce
from weakref import WeakValueDictionary

from app.control.loop import ControlLoop
from app.control.registry_sync import RegistrySync
from app.errors import Conflict, ModelNotFound, ModelUnavailable, RegistryReadOnly, RegistryUnavailable, ServingError
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE, PROMOTED, ROLLED_BACK, AliasState, Intent
from app.serving.releases.load_requests import LoadRequests
from app.serving.releases.observed import Observed
from app.serving.releases.rollout import differences, objection_to
from app.serving.releases.table import Switch
from app.serving.releases.tags import FORCE_TAG
from app.serving.releases.traffic import TrafficPlan
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)


class Promotions:
    """Moves aliases and divides traffic. Not thread-safe.

    Args:
        read_only: refuse every order, since nothing may be written to the registry.
        warm: returns once a version that is wanted is loaded; raises `ModelUnavailable`.
    """

    def __init__(
        self,
        loop: ControlLoop,
        registry: RegistrySync,
        *,
        read_only: bool,
        warm: Callable[[ModelVersion], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._read_only = read_only
        self._warm = warm
        self._switching: SingleFlight[tuple[object, ...], Switch] = SingleFlight()
        self._dividing: SingleFlight[object, None] = SingleFlight()
        self._confirming: set[asyncio.Task[None]] = set()
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def promote(self, version: ModelVersion, alias: str, *, force: bool) -> Switch:
        """Warm a version, then move an alias to it, also when the caller leaves. Raises as `ModelManager.promote`."""
        self._refuse_read_only()
        return await self._switching.do((version, alias, force), partial(self._promote, version, alias, force))

    async def rollback(self, name: str, alias: str, why: str = ROLLED_BACK, *, leaving: str | None = None) -> Switch:
        """Move an alias back to its previous version, or call off a rollout that is under way or blocked.

        Args:
            leaving: do nothing unless the alias names and answers this version.

        Raises as `ModelManager.rollback`.
        """
        self._refuse_read_only()
        if leaving is not None:
            named = (await self._registry.model(name)).aliases.get(alias)
            if not named == leaving == self._loop.state.live(name, alias):
                return Switch(ModelVersion(name, leaving), alias, None, changed=False)
        return await self._switching.do((name, alias), partial(self._rollback, name, alias, why))

    async def set_traffic(self, name: str, plan: TrafficPlan) -> None:
        """Divide the calls to the bare name, also when the caller leaves. Raises as `ModelManager.set_traffic`."""
        self._refuse_read_only()
        await self._dividing.do(object(), partial(self._set_traffic, name, plan))  # each by itself: the last one counts

    async def _set_traffic(self, name: str, plan: TrafficPlan) -> None:
        async with self._alone(name):
            model = await self._registry.model(name)
            for alias in sorted(plan.aliases - model.aliases.keys()):
                raise ModelNotFound(
                    f"model '{name}' has no alias '{alias[:80]}'; it has: {', '.join(sorted(model.aliases)) or 'none'}",
                    {"model": name, "aliases": dict(model.aliases)},
                )
            for tag, value in plan.tags().items():
                await self._registry.set_tag(name, tag, value)
            await self._loop.acknowledged()

    async def _promote(self, version: ModelVersion, alias: str, force: bool) -> Switch:
        name = version.name
        model = await self._registry.model(name)
        before = self._loop.state.alias(name, alias)
        replaced = self._replaced_by(version, alias)
        if before is not None and not replaced and model.aliases.get(alias) == version.version:
            return Switch(version, alias, before.previous, changed=False)
        if not await self._registry.has_version(version):
            raise ModelNotFound(
                f"model '{name}' has no version {version.version} that is ready",
                {"model": name, "version": version.version},
            )
        compared = {ModelVersion(name, one.live) for one in replaced}
        async with self._in_memory(version, *compared):
            await self._warm(version)
            for one in compared:
                await self._try_to_warm(one)
            async with self._alone(name):
                await self._require_compatible(version, alias, force=force)
                await self._move(version, alias, PROMOTED, back=False)
            self._loop.note(lambda observed: replace(observed, requests=observed.requests.unpin(version)))
        return Switch(version, alias, before.live if before is not None else None, changed=True)

    async def _rollback(self, name: str, alias: str, why: str) -> Switch:
        model = await self._registry.model(name)
        before = self._loop.state.alias(name, alias)
        named = model.aliases.get(alias)
        if before is None or named is None:
            raise ModelNotFound(f"model '{name}' has no alias '{alias[:80]}'", {"model": name, "alias": alias[:80]})
        live = ModelVersion(name, before.live)
        if named != before.live:  # a rollout is under way or blocked: it is called off
            async with self._alone(name):
                self._require_unmoved(name, alias, before)
                await self._move(live, alias, why, back=True)
            return Switch(live, alias, named, changed=True)
        if before.back:
            return Switch(live, alias, before.previous, changed=False)
        if before.previous is None:
            raise Conflict(
                f"nothing is known of a version that '{name}@{alias}' answered before version {before.live}: "
                "promote the one that you want",
                {"model": name, "alias": alias, "version": before.live},
            )
        version = ModelVersion(name, before.previous)
        async with self._in_memory(version):
            await self._warm(version)
            async with self._alone(name):
                self._require_unmoved(name, alias, before)
                await self._move(version, alias, why, back=True)
        return Switch(version, alias, before.live, changed=True)

    def _replaced_by(self, version: ModelVersion, alias: str) -> list[AliasState]:
        """Return the aliases that would change their version: the alias, and the bare name where it follows that."""
        states = [self._loop.state.alias(version.name, known_as) for known_as in self._known_as(alias)]
        return [one for one in states if one is not None and one.live != version.version]

    async def _require_compatible(self, version: ModelVersion, alias: str, *, force: bool) -> None:
        """Raise `Conflict` where callers would notice the switch; with `force` have the registry accept it."""
        name, state = version.name, self._loop.state
        # The previous version may always come back.
        before: list[ModelVersion | None] = [
            ModelVersion(name, one.live) for one in self._replaced_by(version, alias) if one.previous != version.version
        ]
        if not before and state.alias(name, alias) is None:
            before = [None]
        for one in before:
            objection = objection_to(version, one, state)
            if objection is None:
                continue
            if not force:
                found = differences(version, one, state)
                raise Conflict(
                    f"{objection}. Promote it with force if callers are ready for it",
                    {"model": name, "version": version.version, "differences": found},
                )
            await self._registry.model(name)  # somebody may just have deleted the tag
            await self._registry.set_tag(name, FORCE_TAG, version.version)

    def _require_unmoved(self, name: str, alias: str, before: AliasState) -> None:
        """Raise `Conflict` where an alias answers another version than it did."""
        now = self._loop.state.live(name, alias)
        if now != before.live:
            raise Conflict(
                f"'{name}@{alias}' was moved meanwhile, from version {before.live} to {now or 'none'}; it stays",
                {"model": name, "alias": alias, "version": now},
            )

    async def _move(self, version: ModelVersion, alias: str, why: str, *, back: bool) -> None:
        """Write the alias, which is the commit point, and return once gateways answer so."""
        name, intent = version.name, Intent(version.version, why, back)
        keys = [(name, known_as) for known_as in self._known_as(alias)]
        await self._loop.observe(
            lambda observed: replace(observed, intents={**observed.intents, **dict.fromkeys(keys, intent)})
        )
        try:
            await self._registry.set_alias(name, alias, version.version)
        except RegistryUnavailable:
            raise  # the registry may have written it all the same
        except ServingError:
            self._loop.note(
                lambda observed: replace(
                    observed, intents={key: one for key, one in observed.intents.items() if key not in keys}
                )
            )
            raise
        # Once the registry has shown the write, somebody else who moves the alias back is believed at once.
        task = asyncio.get_running_loop().create_task(self._confirm(name), context=Context())
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)
        await self._loop.acknowledged()

    async def _confirm(self, name: str) -> None:
        with suppress(ServingError):
            await self._registry.model(name)

    @asynccontextmanager
    async def _in_memory(self, *versions: ModelVersion) -> AsyncIterator[None]:
        """Keep versions in memory while the context is entered."""
        await self._loop.observe(lambda observed: reduce(Observed.want, versions, observed))
        try:
            yield
        finally:
            await self._loop.observe(
                lambda observed: replace(observed, requests=reduce(LoadRequests.unwant, versions, observed.requests))
            )

    async def _try_to_warm(self, version: ModelVersion) -> None:
        try:
            await self._warm(version)
        except ModelUnavailable as error:
            log.warning("failed to load %s to compare the new version with it: %s", version, error.message)

    def _alone(self, name: str) -> asyncio.Lock:
        """Return the lock under which a model is checked and written, but not loaded."""
        return self._writing.setdefault(name, asyncio.Lock())

    def _known_as(self, alias: str) -> tuple[str, ...]:
        return (alias, BARE) if alias == self._loop.settings.default_alias else (alias,)

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise RegistryReadOnly(
                "the model registry is not written to from here (setting registry_read_only): move the alias there"
            )
