"""What was written to the registry a moment ago, for answers of the registry that do not have it yet.

A registry with read replicas may answer with what was so before: an alias that was moved would go back by itself, and
forth again. Part of `app.serving.releases.reconciler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from app.serving.releases.registered_model import RegisteredModel

LAG_S = 5.0
"""Seconds for which answers may lack what was written. Whoever takes it back elsewhere within them, before it was read
once as it was written, waits as long."""


@dataclass(slots=True)
class _Written:
    value: str | None
    at: float
    before: set[str | None] = field(default_factory=set)


class OwnWrites:
    """Not thread-safe.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models: dict[str, dict[tuple[bool, str], _Written]] = {}

    def wrote(self, model: RegisteredModel, aliases: Mapping[str, str], tags: Mapping[str, str | None]) -> None:
        """The registry has taken these aliases and tags of a model; a tag that is None was deleted.

        Args:
            model: what was known of it until now.
        """
        written = self._models.setdefault(model.name, {})
        changes = chain(
            ((False, alias, model.aliases.get(alias), value) for alias, value in aliases.items()),
            ((True, tag, model.tags.get(tag), value) for tag, value in tags.items()),
        )
        for is_tag, key, before, value in changes:
            known = written.get((is_tag, key))
            older = known.before if known is not None else set()
            written[is_tag, key] = _Written(value, self._clock(), older | {before})

    def over(self, model: RegisteredModel) -> RegisteredModel:
        """A model as the registry answers, with what it may not have yet of what was written."""
        written = self._models.get(model.name)
        if written is None:
            return model
        aliases, tags = dict(model.aliases), dict(model.tags)
        for (is_tag, key), last in list(written.items()):
            values = tags if is_tag else aliases
            found = values.get(key)
            if self._clock() - last.at > LAG_S or found not in last.before:
                del written[is_tag, key]  # it has it, or somebody else has written since
            elif last.value is None:
                del values[key]
            else:
                values[key] = last.value
        if not written:
            del self._models[model.name]
        return replace(model, aliases=aliases, tags=tags)

    def forget(self, name: str) -> None:
        """The name means another model now, or none."""
        self._models.pop(name, None)
