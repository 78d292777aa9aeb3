"""Callers of the gateway and what they may do: scopes, and the models that they may name."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import get_args

from app.errors import Forbidden
from app.serving.references import ModelRef
from app.settings import ScopeName

SCOPES: frozenset[ScopeName] = frozenset(get_args(ScopeName))
"""All scopes. As the scopes of an endpoint: any of them suffices."""
PREDICT: frozenset[ScopeName] = frozenset({"predict"})
MANAGE: frozenset[ScopeName] = frozenset({"manage"})
OBSERVE: frozenset[ScopeName] = frozenset({"observe", "manage"})
OPEN: frozenset[ScopeName] = frozenset()
"""Scopes of an endpoint that answers everybody, such as a probe."""

_ALL = ("*",)
_MAX_NAME = 100


def readable(name: str) -> str:
    """Cut a caller's name, and replace what would break a log line."""
    return "".join(char if char.isprintable() else "?" for char in name[:_MAX_NAME])


@lru_cache(maxsize=4096)
def _matches(model: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who sends requests.

    Attributes:
        name: for logs.
        models: patterns of the model names that the caller may use; ``*`` stands for any text.
    """

    name: str
    scopes: Set[ScopeName]
    models: tuple[str, ...] = _ALL

    @property
    def key(self) -> str | None:
        """What the caller's requests in progress are counted by; None where callers are not known."""
        return None if self is ANYBODY else self.name

    def require(self, scopes: Set[ScopeName]) -> None:
        """Raise `Forbidden` unless the caller has one of these scopes."""
        if scopes.isdisjoint(self.scopes):
            wanted = " or ".join(f"'{scope}'" for scope in sorted(scopes))
            raise Forbidden(f"this needs the scope {wanted}, which '{self.name}' does not have")

    def may_use(self, model: str) -> bool:
        """Return whether the caller may use a model."""
        return self.models == _ALL or _matches(model, self.models)

    def allowed(self, ref: ModelRef) -> ModelRef:
        """Return the reference. Raises `Forbidden` if the caller may not use its model, whether that exists or not."""
        if not self.may_use(ref.name):
            raise Forbidden(f"'{self.name}' may not use the model '{ref.name[:80]}'")
        return ref


ANYBODY = Caller("anonymous", SCOPES)
"""The caller of every request while there is no authentication."""
NOBODY = Caller("anonymous", frozenset(), ())
"""A caller without credentials at an endpoint that answers everybody."""
