"""What the registry holds, as far as it is known: every registered model, with what its tags ask for.

Part of `app.serving.releases.reconciler`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from app.serving.releases.recent_writes import OwnWrites
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.tags import NO_TAGS, ModelTags, read_tags

log = logging.getLogger(__name__)

_FIELDS = tuple(field.name for field in fields(RegisteredModel))


class Catalogue:
    """Not thread-safe.

    Args:
        clock: seconds, monotonic.
        forget: called with a name that means another model from now on, or none.
        entered: called with each model that was read.

    Attributes:
        is_known: whether the registry has been read, or what is as good.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        forget: Callable[[str], None],
        entered: Callable[[RegisteredModel], None],
    ) -> None:
        self._own_writes = OwnWrites(clock)
        self._forget = forget
        self._entered = entered
        self._models: dict[str, RegisteredModel] = {}
        self._tags: dict[str, ModelTags] = {}
        self.is_known = False

    @property
    def models(self) -> Mapping[str, RegisteredModel]:
        """By name."""
        return self._models

    def tags(self, name: str) -> ModelTags:
        """How a model's tags want it served."""
        return self._tags.get(name, NO_TAGS)

    def problems(self, model: RegisteredModel) -> tuple[str, ...]:
        """A sentence for each of a model's tags that cannot be followed."""
        return _problems(self.tags(model.name), model.aliases)

    def all_read(self, models: Sequence[RegisteredModel]) -> None:
        """The registry as it is now, whole. A model that is gone is forgotten."""
        for name in self._models.keys() - {model.name for model in models}:
            self._remove(name)
        for model in models:
            self.one_read(model)
        self.is_known = True

    def one_read(self, model: RegisteredModel) -> None:
        """One model as the registry has it now."""
        self._enter(self._own_writes.over(model))

    def written(self, name: str, aliases: Mapping[str, str], tags: Mapping[str, str | None]) -> None:
        """The registry has taken these aliases and tags of a model; a tag that is None was deleted."""
        model = self._models[name]
        self._own_writes.wrote(model, aliases, tags)
        kept = {tag: value for tag, value in {**model.tags, **tags}.items() if value is not None}
        self._enter(replace(model, aliases={**model.aliases, **aliases}, tags=kept))

    def snapshot(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [{key: getattr(model, key) for key in _FIELDS} for model in self._models.values()]

    def restore(self, snapshot: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `snapshot` wrote, in this release of the platform or in another one.

        Raises `AttributeError`, `TypeError` or `ValueError` for what is none.
        """
        models = [RegisteredModel(**{key: facts[key] for key in _FIELDS if key in facts}) for facts in snapshot]
        self._tags = {model.name: read_tags(model.tags) for model in models}
        self._models = {model.name: model for model in models}
        self.is_known = bool(models)  # as good as read: with the registry down, a restart serves from this

    def _enter(self, model: RegisteredModel) -> None:
        before = self._models.get(model.name)
        if before is not None and before.created != model.created:
            self._remove(model.name)
            before = None
        if before is None or before.tags != model.tags or before.aliases != model.aliases:
            known = self.problems(before) if before is not None else ()
            tags = self._tags[model.name] = read_tags(model.tags)
            for problem in _problems(tags, model.aliases):
                if problem not in known:
                    log.warning("model '%s': %s", model.name, problem)
        self._models[model.name] = model
        self._entered(model)

    def _remove(self, name: str) -> None:
        del self._models[name]
        self._tags.pop(name, None)
        self._own_writes.forget(name)
        self._forget(name)


def _problems(tags: ModelTags, aliases: Mapping[str, str]) -> tuple[str, ...]:
    missing = (
        f"traffic names alias '{alias}', which the model does not have: its share goes to the default"
        for alias in sorted(tags.traffic.aliases - aliases.keys())
    )
    return (*tags.problems, *missing)
