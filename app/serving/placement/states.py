"""What a pool member reports about a model version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class VersionState:
    """What one pool replica says of one model version; `nbytes` is what it takes in memory."""

    state: State
    error: str | None = None
    nbytes: int = 0
    load_ms: float = 0.0
    problem: str | None = None
    """What speaks against it although it is loaded: it does not predict its own input example."""
