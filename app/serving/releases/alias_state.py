"""State of one alias: the version that it should serve, the version that serves, and why the two differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

BARE = ""
"""Key of the bare name among a model's aliases."""

_WHY_LENGTH = 300
FIRST = "it was the first that was known"
MOVED = "the alias was moved in the registry"
PROMOTED = "it was promoted"
ROLLED_BACK = "it was rolled back to"

Phase = Literal["idle", "warming", "blocked", "live"]
Refusal = Literal["broken", "incompatible"]


@dataclass(frozen=True, slots=True)
class AliasState:
    """State of one alias of one model.

    Attributes:
        desired: version that the registry names.
        live: version that answers.
        previous: version that answered before; None where none is known.
        phase: ``live``: the desired version answers and is in memory. ``idle``: it answers and no member holds it.
            ``warming``: it will answer once it is loaded. ``blocked``: it cannot answer, for `reason`.
        reason: why the desired version is blocked, or was blocked when it was last tried.
        refusal: kind of that reason; a rollout remembers it while its pool is scaled to zero.
        since: time of the last switch, in seconds since 1970.
        why: cause of the last switch, a sentence.
        back: whether the last switch was a rollback, after which another rollback changes nothing.
        proven: whether `live` has been in memory while it answered.
    """

    desired: str
    live: str
    previous: str | None = None
    phase: Phase = "idle"
    reason: str | None = None
    refusal: Refusal | None = None
    since: float = 0.0
    why: str = FIRST
    back: bool = False
    proven: bool = False

    def shown(self) -> dict[str, Any]:
        """Return JSON values for people: the time is ISO 8601."""
        return {
            "version": self.live,
            "previous": self.previous,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(timespec="milliseconds"),
            "why": self.why[:_WHY_LENGTH],
        }


class Intent(NamedTuple):
    """Cause of a switch that this process is about to write to the registry."""

    version: str
    why: str
    back: bool


def live_tag(aliases: Mapping[str, AliasState], default_alias: str) -> str | None:
    """Return the tag ``serving.live`` of a model: aliases that were warm; None where there are none."""
    shown = {
        alias: state.shown()
        for alias, state in sorted(aliases.items())
        if state.proven and not (alias == BARE and default_alias in aliases)
    }
    return json.dumps(shown) if shown else None
