"""A registered model as the registry shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model as the registry shows it: aliases to versions, its tags and its newest READY version.

    `created`, in milliseconds, tells it from a model that is registered under its name after it was deleted.
    """

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    latest: str | None = None
    created: int = 0
