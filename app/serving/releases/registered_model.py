"""A registered model as the registry shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model: aliases to versions, tags, and the newest READY version.

    `created`, in milliseconds, distinguishes models that were registered under the same name one after the other.
    """

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    latest: str | None = None
    created: int = 0
