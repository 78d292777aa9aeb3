"""Traffic splits and shadows of a model's bare name.

The tag ``serving.traffic`` holds percent per alias as a JSON object, and ``serving.shadow`` the alias that gets a copy
of each call. `TrafficPlan` is what they ask for; `Traffic` is what is in force, among versions that are warm.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from typing import Any

import orjson

from app.errors import InvalidRequest

TRAFFIC_TAG = "serving.traffic"
SHADOW_TAG = "serving.shadow"

_MAX_VARIANTS = 16
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Desired traffic: percent per alias, none or 100 in all, and the alias that gets copies."""

    weights: tuple[tuple[str, float], ...] = ()
    shadow: str | None = None

    @property
    def aliases(self) -> frozenset[str]:
        """Aliases whose versions must be warm."""
        return frozenset([alias for alias, _ in self.weights] + ([self.shadow] if self.shadow else []))

    def tags(self) -> dict[str, str | None]:
        """Return the two tags of the plan; None for a tag to delete."""
        weights = {alias: int(weight) if weight == int(weight) else weight for alias, weight in self.weights}
        return {TRAFFIC_TAG: json.dumps(weights) if weights else None, SHADOW_TAG: self.shadow}

    def in_force(self, warm: Mapping[str, str], *, default: str) -> Traffic | None:
        """Return what can be in force: an alias whose version is not warm leaves its share to the default.

        Args:
            warm: alias to version, of the aliases whose version is warm.
            default: the version that the bare name means.
        """
        weights = sorted(self.weights, key=lambda item: -item[1])
        variants = tuple(Variant(alias, warm.get(alias, default), weight) for alias, weight in weights if weight)
        shadow = Variant(self.shadow, warm[self.shadow]) if self.shadow is not None and self.shadow in warm else None
        return Traffic(variants, shadow) if variants or shadow else None


NO_TRAFFIC = TrafficPlan()


def make_plan(weights: Mapping[str, Any], shadow: str | None = None) -> TrafficPlan:
    """Make a plan from percent per alias.

    Raises:
        InvalidRequest: a weight is no number from 0 to 100, or they do not sum up to 100.
    """
    if len(weights) > _MAX_VARIANTS:
        raise InvalidRequest(f"traffic names {len(weights)} aliases; at most {_MAX_VARIANTS} can share it")
    for alias, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 100:
            raise InvalidRequest(
                f"the weight of alias '{alias[:80]}' is {str(weight)[:40]!r}; expected percent, a number from 0 to 100",
                {"alias": alias[:80]},
            )
    total = sum(weights.values())
    if weights and abs(total - 100) > _TOLERANCE:
        raise InvalidRequest(f"the weights sum up to {total:g}; they must sum up to 100", {"sum": total})
    return TrafficPlan(tuple(sorted((alias, float(weight)) for alias, weight in weights.items())), shadow or None)


def read_tags(tags: Mapping[str, str]) -> tuple[TrafficPlan, tuple[str, ...]]:
    """Return the plan of a model's tags, and a sentence where they are ignored because they cannot be followed."""
    shadow = tags.get(SHADOW_TAG) or None
    text = tags.get(TRAFFIC_TAG)
    if text is None:
        return (TrafficPlan((), shadow) if shadow else NO_TRAFFIC), ()
    try:
        weights = orjson.loads(text)
        if not isinstance(weights, dict):
            raise InvalidRequest("it is no JSON object of aliases and percent")  # noqa: TRY301
        return make_plan(weights, shadow), ()
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    except InvalidRequest as error:
        problem = error.message
    return TrafficPlan((), shadow), (f"tag {TRAFFIC_TAG} is ignored: {problem}",)


@dataclass(frozen=True, slots=True)
class Variant:
    """Share of one alias in the calls to the bare name; `weight` in percent."""

    alias: str
    version: str
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic in force for one model. Without `variants` all calls go to the version of the bare name."""

    variants: tuple[Variant, ...] = ()
    shadow: Variant | None = None

    def choose(self, name: str, key: str | None) -> str:
        """Return the version for a call, by chance without a key; needs `variants`.

        A key gets the same version on every replica: each alias draws a number for it, and the lowest one in relation
        to its weight wins. When weights change, a key moves only to an alias that has grown in relation to its own.

        Args:
            name: the model; a key falls on another side of each model's split.
            key: an entity or a session, which stays with one variant.
        """
        if key is not None:
            return min(self.variants, key=lambda variant: _waiting(name, variant.alias, key) / variant.weight).version
        point = random.random() * sum([variant.weight for variant in self.variants])  # noqa: S311 - no secret
        for variant in self.variants[:-1]:
            point -= variant.weight
            if point < 0:
                return variant.version
        return self.variants[-1].version


def _waiting(name: str, alias: str, key: str) -> float:
    """Draw a positive number, distributed exponentially: each of several is the lowest in proportion to its rate."""
    digest = blake2b(f"{name}\0{alias}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return -log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52)
