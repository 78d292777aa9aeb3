"""How calls to a model's bare name are divided among its aliases, and which of them gets a copy of each call.

Two tags of the registered model say it: ``serving.traffic`` holds percent per alias as a JSON object, and
``serving.shadow`` an alias. `TrafficPlan` is what they ask for; `Traffic` is what is in force, versions that are warm.
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
    """What is asked for: percent per alias, which are no or sum up to 100, and the alias that gets copies."""

    weights: tuple[tuple[str, float], ...] = ()
    shadow: str | None = None

    @property
    def aliases(self) -> frozenset[str]:
        """All that the plan needs to be warm."""
        return frozenset([alias for alias, _ in self.weights] + ([self.shadow] if self.shadow else []))

    def tags(self) -> dict[str, str | None]:
        """The two tags that say the same; None where there is none."""
        weights = {alias: int(weight) if weight == int(weight) else weight for alias, weight in self.weights}
        return {TRAFFIC_TAG: json.dumps(weights) if weights else None, SHADOW_TAG: self.shadow}

    def in_force(self, warm: Mapping[str, str], *, default: str) -> Traffic | None:
        """What can be in force: an alias whose version is not warm leaves its share to the default.

        Args:
            warm: alias to version, of those that are warm.
            default: the version that the bare name means.
        """
        weights = sorted(self.weights, key=lambda item: -item[1])
        variants = tuple(Variant(alias, warm.get(alias, default), weight) for alias, weight in weights if weight)
        shadow = Variant(self.shadow, warm[self.shadow]) if self.shadow is not None and self.shadow in warm else None
        return Traffic(variants, shadow) if variants or shadow else None


NO_TRAFFIC = TrafficPlan()


def make_plan(weights: Mapping[str, Any], shadow: str | None = None) -> TrafficPlan:
    """A plan from percent per alias.

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
    """What a registered model's tags ask for, and a sentence where they cannot be followed and are ignored."""
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
    """One alias's part of the calls to the bare name; `weight` in percent."""

    alias: str
    version: str
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is in force for one model. Without `variants` all calls go to what the bare name means."""

    variants: tuple[Variant, ...] = ()
    shadow: Variant | None = None

    def choose(self, name: str, key: str | None) -> str:
        """The version for a call; needs `variants`. By chance where there is no key.

        For a key it is the same on every replica: each alias draws a number for it, and the least one in relation to
        its weight wins. When weights change, a caller moves only to an alias that has grown in relation to its own.

        Args:
            name: the model, so that a key does not fall on the same side of every model's split.
            key: what stays with one variant: an entity, or a session.
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
    """A positive number, distributed exponentially: of several ones, each is the least in proportion to its rate."""
    digest = blake2b(f"{name}\0{alias}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return -log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52)
