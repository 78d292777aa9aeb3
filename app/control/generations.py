"""Generations of the registered models: which answers of the registry are older than what this process wrote.

The number of a model grows with each write and each answer about it, so an answer whose question is older is known by
the number. A registry with read replicas may also answer a later question with an older value. So for a while the
values from before a write are taken for such answers, until the registry has shown the write once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.serving.releases.registered_model import RegisteredModel

LAG_S = 5.0
"""Seconds for which answers may lack a write. If somebody else undoes a write before it was read, it takes as long."""

Key: TypeAlias = tuple[str, str]
"""``("alias", name)`` or ``("tag", name)``."""


@dataclass(frozen=True, slots=True)
class _Write:
    value: str | None
    until: float
    older: frozenset[str | None]


class Generations:
    """One number per model, and the writes that a lagging registry may not show yet.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers: Counter[str] = Counter()
        self._writes: dict[str, dict[Key, _Write]] = {}

    def begin(self) -> Mapping[str, int]:
        """Return the numbers of all models, to be kept while a question is under way."""
        return self._numbers.copy()

    def advance(self, name: str) -> None:
        """Start a new generation of a model: answers to earlier questions are too old."""
        self._numbers[name] += 1

    def newer(self, begun: Mapping[str, int]) -> set[str]:
        """Return the models that have a new generation since `begin`."""
        return {name for name, number in self._numbers.items() if number != begun.get(name, 0)}

    def written(self, model: RegisteredModel, key: Key, value: str | None) -> RegisteredModel:
        """Record a write that the registry has accepted.

        Args:
            model: the model as it was known until now.
            value: the new value; None where the registry deleted it.

        Returns:
            The model as it is now.
        """
        writes = self._writes.setdefault(model.name, {})
        older = writes[key].older if key in writes else frozenset()
        writes[key] = _Write(value, self._clock() + LAG_S, older | {_values(model, key).get(key[1])})
        return _changed(model, {key: value})

    def merge(self, answer: RegisteredModel, known: RegisteredModel | None) -> RegisteredModel:
        """Return an answer of the registry with the writes that it may not show yet.

        Args:
            known: the model as it was known until now; one that was registered again has no writes.
        """
        if known is None or known.created != answer.created:
            self._writes.pop(answer.name, None)
        pending = {
            key: write
            for key, write in self._writes.pop(answer.name, {}).items()
            if self._clock() <= write.until and _values(answer, key).get(key[1]) in write.older
        }
        if not pending:
            return answer
        self._writes[answer.name] = pending
        return _changed(answer, {key: write.value for key, write in pending.items()})


def _values(model: RegisteredModel, key: Key) -> Mapping[str, str]:
    return model.aliases if key[0] == "alias" else model.tags


def _changed(model: RegisteredModel, values: Mapping[Key, str | None]) -> RegisteredModel:
    found: dict[str, dict[str, str]] = {"alias": dict(model.aliases), "tag": dict(model.tags)}
    for (kind, name), value in values.items():
        if value is None:
            found[kind].pop(name, None)
        else:
            found[kind][name] = value
    return replace(model, aliases=found["alias"], tags=found["tag"])
