"""Promote, rollback, traffic: what callers want of the registry, written there, where the alias is the commit point.

Everything else follows from what is written, as if somebody had done it in MLflow's own pages; so that nothing is lost
when `Releases` dies between two steps. Used by `app.deployments.releases`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from weakref import WeakValueDictionary

from app.control.registry_sync import RegistryReader
from app.errors import Conflict, ModelNotFound, ModelUnavailable, RegistryReadOnly, RegistryUnavailable, ServingError
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import BARE, PROMOTED, ROLLED_BACK, Live
from app.serving.releases.reconciler import ReleaseBook
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.table import Switch
from app.serving.releases.tags import FORCE_TAG
from app.serving.releases.traffic import TrafficPlan
from app.serving.single_flight import SingleFlight

log = logging.getLogger(__name__)


class ReleaseWriter:
    """Not thread-safe: it lives on the event loop of `Releases`.

    Args:
        book: what is served.
        reader: the registry.
        read_only: whether nothing is ever written.
        warm: returns once a version that the book wants is loaded; raises `ModelUnavailable`.
        published: awaited after each change of the book; returns once all gateways know.
    """

    def __init__(
        self,
        book: ReleaseBook,
        reader: RegistryReader,
        *,
        read_only: bool,
        warm: Callable[[ModelVersion], Awaitable[None]],
        published: Callable[[], Awaitable[None]],
    ) -> None:
        self._book = book
        self._reader = reader
        self._read_only = read_only
        self._warm = warm
        self._published = published
        self._switching: SingleFlight[tuple[object, ...], Switch] = SingleFlight()
        self._dividing: SingleFlight[object, None] = SingleFlight()
        self._confirming: set[asyncio.Task[None]] = set()
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def promote(self, version: ModelVersion, alias: str, *, force: bool) -> Switch:
        """Warm a version, then move an alias to it. The work is done whether or not the caller waits for it.

        Raises as `ModelManager.promote`.
        """
        self._refuse_read_only()
        return await self._switching.do((version, alias, force), partial(self._promote, version, alias, force))

    async def rollback(self, name: str, alias: str, why: str = ROLLED_BACK, *, leaving: str | None = None) -> Switch:
        """Move an alias back to what it answered before, or call off a switch that is under way or held up.

        Args:
            leaving: the only version to go back from: nothing is done where the alias names or answers another one by
                now.

        Raises as `ModelManager.rollback`.
        """
        self._refuse_read_only()
        if leaving is not None:
            named = (await self._reader.model(name)).aliases.get(alias)
            if not named == leaving == self._book.live.version(name, alias):
                return Switch(ModelVersion(name, leaving), alias, None, changed=False)
        return await self._switching.do((name, alias), partial(self._rollback, name, alias, why))

    async def set_traffic(self, name: str, plan: TrafficPlan) -> None:
        """Divide the calls to the bare name. The work is done whether or not the caller waits for it.

        Raises as `ModelManager.set_traffic`.
        """
        self._refuse_read_only()
        await self._dividing.do(object(), partial(self._set_traffic, name, plan))  # each by itself: the last one counts

    async def tell(self, name: str, tag: str, value: str) -> None:
        """Write a tag of a model. Raises `RegistryReadOnly`, `RegistryUnavailable`."""
        await self._write_tag(self._book.models[name], tag, value)

    async def _set_traffic(self, name: str, plan: TrafficPlan) -> None:
        async with self._alone(name):
            model = await self._reader.model(name)
            for alias in sorted(plan.aliases - model.aliases.keys()):
                raise ModelNotFound(
                    f"model '{name}' has no alias '{alias[:80]}'; it has: {', '.join(sorted(model.aliases)) or 'none'}",
                    {"model": name, "aliases": dict(model.aliases)},
                )
            for tag, value in plan.tags().items():
                await self._write_tag(model, tag, value)
            await self._published()

    async def _promote(self, version: ModelVersion, alias: str, force: bool) -> Switch:
        name = version.name
        model = await self._reader.model(name)
        live = self._book.live.of(name).get(alias)
        follow = self._to_follow(version, alias)
        if live is not None and not follow and model.aliases.get(alias) == version.version:
            return Switch(version, alias, live.previous, changed=False)
        if not await self._reader.ask(lambda registry: registry.has_version(version)):
            raise ModelNotFound(
                f"model '{name}' has no version {version.version} that is ready",
                {"model": name, "version": version.version},
            )
        compared = {ModelVersion(name, one.version) for one in follow}
        for one in (version, *compared):
            self._book.want(one)
        try:
            await self._published()
            await self._warm(version)
            for one in compared:
                await self._try_to_warm(one)
            async with self._alone(name):
                await self._overcome(version, alias, force=force)
                await self._move(name, alias, version.version, PROMOTED, back=False)
            self._book.unpin(version)  # from here on the alias keeps it
        finally:
            for one in (version, *compared):
                self._book.no_longer_want(one)
        return Switch(version, alias, live.version if live is not None else None, changed=True)

    def _to_follow(self, version: ModelVersion, alias: str) -> list[Live]:
        """What answers now where the version would: for the alias, and for the bare name where it follows that."""
        live = self._book.live.of(version.name)
        answering = [live[known_as] for known_as in self._known_as(alias) if known_as in live]
        return [one for one in answering if one.version != version.version]

    async def _overcome(self, version: ModelVersion, alias: str, *, force: bool) -> None:
        """Raises `Conflict` where something speaks against the version; with `force` the registry is told otherwise."""
        name = version.name
        follow = self._to_follow(version, alias)
        # What has answered just before may come back.
        before: list[ModelVersion | None] = [
            ModelVersion(name, one.version) for one in follow if one.previous != version.version
        ]
        if not before and alias not in self._book.live.of(name):
            before = [None]
        for one in before:
            objection = self._book.switches.objection(one, version)
            if objection is None:
                continue
            if not force:
                raise Conflict(
                    f"{objection}. Promote it with force if callers are ready for it",
                    {
                        "model": name,
                        "version": version.version,
                        "differences": self._book.switches.differences(one, version),
                    },
                )
            await self._write_tag(await self._reader.model(name), FORCE_TAG, version.version)

    async def _rollback(self, name: str, alias: str, why: str) -> Switch:
        model = await self._reader.model(name)
        live = self._book.live.of(name).get(alias)
        named = model.aliases.get(alias)
        if live is None or named is None:
            raise ModelNotFound(f"model '{name}' has no alias '{alias[:80]}'", {"model": name, "alias": alias[:80]})
        if named != live.version:  # a switch is under way, or held up: it is called off
            async with self._alone(name):
                self._require_unmoved(name, alias, live)
                await self._move(name, alias, live.version, why, back=True)
                self._book.live.stop_going_back(name, self._known_as(alias))  # the same call again goes no further
                await self._published()
            return Switch(ModelVersion(name, live.version), alias, named, changed=True)
        if live.back:
            return Switch(ModelVersion(name, live.version), alias, live.previous, changed=False)
        if live.previous is None:
            raise Conflict(
                f"nothing is known of a version that '{name}@{alias}' answered before version {live.version}: "
                "promote the one that you want",
                {"model": name, "alias": alias, "version": live.version},
            )
        version = ModelVersion(name, live.previous)
        self._book.want(version)
        try:
            await self._published()
            await self._warm(version)
            async with self._alone(name):
                self._require_unmoved(name, alias, live)
                await self._move(name, alias, version.version, why, back=True)
        finally:
            self._book.no_longer_want(version)
        return Switch(version, alias, live.version, changed=True)

    def _require_unmoved(self, name: str, alias: str, live: Live) -> None:
        """Raises `Conflict` where an alias answers another version than it did."""
        now = self._book.live.version(name, alias)
        if now != live.version:
            raise Conflict(
                f"'{name}@{alias}' has been moved meanwhile, from version {live.version} to {now or 'none'}: it stays",
                {"model": name, "alias": alias, "version": now},
            )

    def _alone(self, name: str) -> asyncio.Lock:
        """Held while what is so of a model is looked at, and written: not for as long as a version loads."""
        return self._writing.setdefault(name, asyncio.Lock())

    async def _move(self, name: str, alias: str, version: str, why: str, *, back: bool) -> None:
        """Write the alias: from here on it is so, whoever dies."""
        for known_as in self._known_as(alias):
            self._book.switches.explain(name, known_as, version, why, back=back)
        try:
            await self._reader.write(name, lambda registry: registry.set_alias(name, alias, version))
        except RegistryUnavailable:
            raise  # it may have been written all the same
        except ServingError:
            for known_as in self._known_as(alias):
                self._book.switches.unexplain(name, known_as)
            raise
        self._book.written(name, aliases={alias: version}, tags={})
        task = asyncio.get_running_loop().create_task(self._confirm(name), context=Context())
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)
        await self._published()

    async def _confirm(self, name: str) -> None:
        """Read what was written: whoever moves the alias back elsewhere is then believed at once."""
        with suppress(ServingError):
            await self._reader.model(name)

    def _known_as(self, alias: str) -> tuple[str, ...]:
        return (alias, BARE) if alias == self._book.default_alias else (alias,)

    async def _write_tag(self, model: RegisteredModel, tag: str, value: str | None) -> None:
        if model.tags.get(tag) == value:
            return
        if value is None:
            await self._reader.write(model.name, lambda registry: registry.delete_tag(model.name, tag))
        else:
            await self._reader.write(model.name, lambda registry: registry.set_tag(model.name, tag, value))
        self._book.written(model.name, tags={tag: value})

    async def _try_to_warm(self, version: ModelVersion) -> None:
        try:
            await self._warm(version)
        except ModelUnavailable as error:
            log.warning("the new version cannot be compared with %s: %s", version, error.message)

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise RegistryReadOnly(
                "the model registry is not written to from here (setting registry_read_only): move the alias there"
            )
