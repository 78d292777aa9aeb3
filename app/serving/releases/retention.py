"""Which versions should be in memory whether or not anybody calls them. Part of `app.serving.releases.reconciler`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.alias_state import BARE, LiveVersions
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.traffic import TrafficPlan

_ALL = "*"


class Residency:
    """The rules that the settings make.

    Args:
        preload: references; ``*`` is every model that has the default alias.
        default_alias: the alias that a bare name means.
        keep_previous_s: seconds for which the version before a switch stays, and with it the one after.
        wall: seconds since 1970.
    """

    def __init__(
        self, preload: Sequence[str], *, default_alias: str, keep_previous_s: float, wall: Callable[[], float]
    ) -> None:
        self._all = _ALL in preload
        self._references = [parse_ref(reference) for reference in preload if reference != _ALL]
        self._default_alias = default_alias
        self._keep_previous_s = keep_previous_s
        self._wall = wall

    def of_references(self, live: LiveVersions) -> set[ModelVersion]:
        """What the references of the setting mean now."""
        found = ((ref.name, ref.version or live.version(ref.name, ref.alias or BARE)) for ref in self._references)
        return {ModelVersion(name, version) for name, version in found if version is not None}

    def of_model(self, model: RegisteredModel, plan: TrafficPlan, live: LiveVersions) -> set[str]:
        """Versions of one model: its default, those of its traffic, and those of a switch of late."""
        answering = live.of(model.name)
        wanted = {answering[alias].version for alias in plan.aliases & answering.keys()}
        if self._all and self._default_alias in model.aliases and BARE in answering:
            wanted.add(answering[BARE].version)
        kept_since = self._wall() - self._keep_previous_s
        for one in answering.values():
            if one.previous is not None and one.since > kept_since:
                wanted |= {one.previous, one.version}
        return wanted
