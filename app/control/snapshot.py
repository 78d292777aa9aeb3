"""The state of the release engine on disk: a restart goes on with it, also where the registry does not answer."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson

from app.serving.references import ModelVersion
from app.serving.releases.alias_state import AliasState, Refusal
from app.serving.releases.load_requests import LoadRequests
from app.serving.releases.observed import Observed
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.release_state import Now, ReleaseSettings, ReleaseState

log = logging.getLogger(__name__)

_MODEL = tuple(field.name for field in fields(RegisteredModel))
_ALIAS = ("previous", "since", "why", "back", "proven")


class Snapshot:
    """One JSON file, replaced as a whole. `content` is what it held at the start; empty where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self._written = b""
        self._fails = False
        self.content: dict[str, Any] = {}
        try:
            self.content = dict(orjson.loads(path.read_bytes()))
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError, TypeError):
            log.exception("failed to read the snapshot %s, starting from the registry", path)

    async def write(self, content: Mapping[str, Any]) -> bool:
        """Write JSON values where they differ from those written last.

        Returns:
            False where the file cannot be written, which is logged once.
        """
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        async with self._writing:
            if text != self._written and await asyncio.to_thread(self._has_written, text):
                self._written = text
            return text == self._written

    def _has_written(self, text: bytes) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError:
            if not self._fails:
                log.exception(
                    "failed to write the snapshot %s: a restart without a registry would not know what to serve",
                    self._path,
                )
            self._fails = True
            return False
        self._fails = False
        return True


def encode(state: ReleaseState) -> dict[str, Any]:
    """Return as JSON values what outlives a restart: no member's report is among it."""
    observed, requests = state.observed, state.observed.requests
    return {
        "live": {
            name: {
                alias: {"version": one.live, **{key: getattr(one, key) for key in _ALIAS}}
                for alias, one in aliases.items()
            }
            for name, aliases in state.aliases.items()
        },
        "held_up": [
            [name, alias, one.desired, one.reason, one.refusal == "broken"]
            for name, aliases in state.aliases.items()
            for alias, one in aliases.items()
            if one.refusal is not None
        ],
        "pinned": sorted(map(list, requests.pinned)),
        "let_go": sorted(map(list, requests.unloaded)),
        "contradictions": [[*version, reason] for version, reason in sorted(observed.contradictions.items())],
        "stale_since": observed.stale_since,
        "models": [{key: getattr(model, key) for key in _MODEL} for model in state.models.values()],
    }


def decode(content: Mapping[str, Any], state: ReleaseState, now: Now, settings: ReleaseSettings) -> ReleaseState:
    """Return the state with what `encode` wrote, in this release of the platform or in another one.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the content is not understood.
    """
    aliases = {
        name: {alias: _alias_state(one) for alias, one in known.items()}
        for name, known in content.get("live", {}).items()
        if settings.serves(name)
    }
    for name, alias, desired, reason, is_broken in content.get("held_up", []):
        if alias in aliases.get(name, {}):
            refusal: Refusal = "broken" if is_broken else "incompatible"
            blocked = replace(aliases[name][alias], desired=desired, phase="blocked", reason=reason, refusal=refusal)
            aliases[name][alias] = blocked
    models = [
        RegisteredModel(**{key: one[key] for key in _MODEL if key in one})
        for one in content.get("models", [])
        if settings.serves(one["name"])
    ]
    requests = LoadRequests(
        pinned=frozenset(ModelVersion(*pair) for pair in content.get("pinned", [])),
        unloaded=frozenset(ModelVersion(*pair) for pair in content.get("let_go", [])),
    )
    observed = Observed(
        models={model.name: model for model in models} or None,
        requests=requests,
        contradictions={
            ModelVersion(name, number): reason for name, number, reason in content.get("contradictions", [])
        },
        stale_since=content.get("stale_since") or now.wall,
    )
    return replace(
        state,
        observed=observed,
        aliases=aliases,
        grace_until=now.monotonic + settings.grace_s,
        reunion_until=now.monotonic + settings.reunion_s,
    )


def _alias_state(one: Mapping[str, Any]) -> AliasState:
    return AliasState(one["version"], one["version"], **{key: one[key] for key in _ALIAS if key in one})
