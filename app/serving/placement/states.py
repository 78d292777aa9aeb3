"""State of a model version on one pool member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.serving.batching_contract import BatchingContract

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class VersionState:
    """State of one version on one pool member; `nbytes` is its size in memory."""

    state: State
    error: str | None = None
    nbytes: int = 0
    load_ms: float = 0.0
    batching: BatchingContract | None = None
    problem: str | None = None
    """Why a loaded version should not serve, such as a failure to predict its own input example."""
    doing: str | None = None
    """What a load that takes long is doing, such as building the environment; None for an ordinary load."""
    isolation: str | None = None
    """Why the version runs in a worker process; None where it does not."""
    accelerator: str | None = None
    """The faster way in which the version is called; None for MLflow's own."""
    begun: bool = False
    """Whether a load runs; False while it waits for its turn."""
