"""What answers now for each alias of each model, and what it was before: the memory of
`app.serving.releases.reconciler`.

It outlives a restart in two places: the snapshot beside the artifact cache, and the tag ``serving.live`` of each
registered model, which also tells people. Where both know an alias, the later switch counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import orjson

BARE = ""
"""The key under which the bare name stands among the aliases."""

_WHY_LENGTH = 300
FIRST = "it was the first that was known"
MOVED = "the alias was moved in the registry"
PROMOTED = "it was promoted"
ROLLED_BACK = "it was rolled back to"


@dataclass(frozen=True, slots=True)
class Live:
    """What one alias answers.

    Attributes:
        version: the version that answers.
        previous: the one that did before; None where none is known.
        since: when it was switched to, in seconds since 1970.
        why: a sentence.
        back: whether the switch was a step back, after which there is nothing more to roll back.
        proven: whether it has been warm while it answered.
    """

    version: str
    previous: str | None = None
    since: float = 0.0
    why: str = FIRST
    back: bool = False
    proven: bool = False

    def shown(self) -> dict[str, Any]:
        """For people and for the tag: JSON values, the time as ISO 8601."""
        return {
            "version": self.version,
            "previous": self.previous,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(timespec="milliseconds"),
            "why": self.why[:_WHY_LENGTH],
        }


_FIELDS = tuple(field.name for field in fields(Live))


class LiveVersions:
    """Live versions per model and alias. Not thread-safe."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Live]] = {}

    def of(self, name: str) -> dict[str, Live]:
        """Per alias of a model what answers; the bare name stands under ``""``."""
        return self._models.get(name, {})

    def set(self, name: str, live: dict[str, Live]) -> None:
        """Replace what is known of a model."""
        self._models[name] = live

    def stop_going_back(self, name: str, aliases: Iterable[str]) -> None:
        """What these aliases answer is what somebody has gone back to."""
        live = self.of(name)
        live.update({alias: replace(live[alias], back=True) for alias in aliases if alias in live})

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all other models."""
        known = set(names)
        self._models = {name: live for name, live in self._models.items() if name in known}

    def forget(self, name: str) -> None:
        """The name means another model now."""
        self._models.pop(name, None)

    def version(self, name: str, alias: str) -> str | None:
        live = self.of(name).get(alias)
        return live.version if live is not None else None

    def snapshot(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            name: {alias: {key: getattr(one, key) for key in _FIELDS} for alias, one in live.items()}
            for name, live in self._models.items()
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take over what `snapshot` wrote. Raises `AttributeError` or `TypeError` for what is none."""
        self._models = {
            name: {alias: Live(**{key: one[key] for key in _FIELDS if key in one}) for alias, one in live.items()}
            for name, live in snapshot.items()
        }

    def adopt(self, name: str, tag: str | None, default_alias: str) -> None:
        """Take over what a model's tag says of aliases that were switched later than is known here."""
        found = _read(tag)
        if default_alias in found:
            found[BARE] = found[default_alias]
        known = self._models.setdefault(name, {})
        for alias, one in found.items():
            if alias not in known or known[alias].since < one.since:
                known[alias] = one

    def tag(self, name: str, default_alias: str) -> str | None:
        """The tag for a model: aliases that were warm, the bare name only where it follows no alias."""
        live = self.of(name)
        shown = {
            alias: one.shown()
            for alias, one in sorted(live.items())
            if one.proven and not (alias == BARE and default_alias in live)
        }
        return json.dumps(shown) if shown else None


def _read(tag: str | None) -> dict[str, Live]:
    """What a tag says; nothing where it is no tag of ours, for it can be written by anybody."""
    found = {}
    try:
        for alias, one in orjson.loads(tag or "{}").items():
            previous = one.get("previous")
            live = Live(
                _number(one["version"]),
                _number(previous) if previous is not None else None,
                datetime.fromisoformat(one["since"]).timestamp(),
                str(one.get("why", ""))[:_WHY_LENGTH],
                proven=True,
            )
            live.shown()  # not every time can be told in UTC
            found[str(alias)] = live
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}
    return found


def _number(version: str) -> str:
    """A version's number as the registry writes it. Raises `ValueError`, `TypeError`."""
    if not (version.isascii() and version.isdigit()):
        raise ValueError("versions are whole numbers")
    return str(int(version))
