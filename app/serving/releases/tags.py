"""How a registered model's tags with the prefix ``serving.`` want it served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.serving.batching import limits
from app.serving.batching.limits import NO_OVERRIDES, BatchOverrides
from app.serving.releases import rollback_policy, traffic
from app.serving.releases.rollback_policy import RollbackRule
from app.serving.releases.traffic import NO_TRAFFIC, TrafficPlan

POOL_TAG = "serving.pool"
FORCE_TAG = "serving.force"
"""Names a version that an alias may switch to although its inputs differ or its own example fails."""
LIVE_TAG = "serving.live"
"""Written by the platform for people, never read: what each alias answers. See `alias_state.live_tag`."""
ISOLATION_TAG = "serving.isolation"
"""``process`` gives each version of the model a worker process of its own."""
DEFAULT_POOL = "default"


@dataclass(frozen=True, slots=True)
class ModelTags:
    """Meaning of the tags; `problems` has a sentence for each tag that is ignored because it cannot be followed."""

    pool: str = DEFAULT_POOL
    batch: BatchOverrides = NO_OVERRIDES
    traffic: TrafficPlan = NO_TRAFFIC
    rollback: RollbackRule | None = None
    forced: str | None = None
    isolated: bool = False
    problems: tuple[str, ...] = ()


NO_TAGS = ModelTags()


def read_tags(tags: Mapping[str, str]) -> ModelTags:
    """Read all tags of a model."""
    if not any(tag.startswith("serving.") for tag in tags):
        return NO_TAGS
    batch, batch_problems = limits.read_tags(tags)
    plan, traffic_problems = traffic.read_tags(tags)
    rule, rule_problems = rollback_policy.read_tags(tags)
    isolation = tags.get(ISOLATION_TAG)
    wrong = () if isolation in (None, "process") else (_wrong_isolation(isolation or ""),)
    return ModelTags(
        tags.get(POOL_TAG) or DEFAULT_POOL,
        batch,
        plan,
        rule,
        tags.get(FORCE_TAG),
        isolation == "process",
        (*batch_problems, *traffic_problems, *rule_problems, *wrong),
    )


def _wrong_isolation(text: str) -> str:
    return f"tag {ISOLATION_TAG} is {text[:40]!r}, expected 'process': it is ignored"
