"""`reconcile`: from what was observed to what is served. A pure function; `app.control.loop` holds its state.

- An alias in the registry names the *desired* version. The *live* version, which answers, follows once the desired one
  is warm on every pool member that should hold it, and stays where it is otherwise (`app.serving.releases.rollout`).
- The bare name follows the default alias, else the newest READY version.
- Resident are: default versions that the setting `preload` names, versions that callers loaded, both versions of a
  rollout, those of a recent switch, and all that take part in a traffic split.
- A version has as many copies as its load needs, a resident one at least as many as its pool's settings say.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from app.serving.placement.pool_members import PoolMembers, PoolPlan
from app.serving.placement.replication import copy_levels
from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.alias_state import BARE, AliasState, live_tag
from app.serving.releases.observed import Observed
from app.serving.releases.registered_model import RegisteredModel
from app.serving.releases.release_state import Aliases, Effects, Now, ReleaseSettings, ReleaseState, problems_of
from app.serving.releases.rollout import step
from app.serving.releases.table import Release, ReleaseTable
from app.serving.releases.tags import NO_TAGS, POOL_TAG, ModelTags, read_tags
from app.serving.releases.traffic import NO_TRAFFIC, Traffic

_ALL = "*"


def reconcile(
    before: ReleaseState, observed: Observed, settings: ReleaseSettings, now: Now
) -> tuple[ReleaseState, Effects]:
    """Work out what is served now.

    Returns:
        The new state, whose table has a higher epoch where it differs from the last one, and what has to be done.
    """
    before, observed = _without_the_gone(before, observed, settings, now)
    models = observed.models or {}
    tags = {
        name: before.tags[name] if _has_same_tags(before, model) else read_tags(model.tags)
        for name, model in models.items()
    }

    def pool_of(version: ModelVersion) -> str:
        return tags.get(version.name, NO_TAGS).pool

    def busy_per_copy(version: ModelVersion) -> float:
        return settings.pools.get(pool_of(version), PoolPlan()).busy_per_copy

    loads = [report.busy for report in observed.members.values()]
    levels = copy_levels(before.levels, loads, busy_per_copy, calm_s=settings.calm_s, now=now.monotonic)
    members = PoolMembers(observed.members, settings.pools, levels, pool_of)
    state = replace(before, observed=observed, tags=tags, members=members, levels=levels)
    state = _follow(state, settings, now)
    state = _publish(state, settings, now)
    return state, _effects(before, state, settings)


def _without_the_gone(
    before: ReleaseState, observed: Observed, settings: ReleaseSettings, now: Now
) -> tuple[ReleaseState, Observed]:
    """Drop silent members, and everything about models that were deleted or registered again."""
    oldest = now.monotonic - settings.member_ttl_s
    for member, report in observed.members.items():
        if report.seen < oldest:
            observed = observed.died(member)
    models = observed.models or {}
    gone = {
        name for name, model in before.models.items() if name not in models or models[name].created != model.created
    }
    if gone:
        kept = {name: model for name, model in before.models.items() if name not in gone}
        aliases = {name: states for name, states in before.aliases.items() if name not in gone}
        tags = {name: one for name, one in before.tags.items() if name not in gone}
        before = replace(before, observed=replace(before.observed, models=kept), aliases=aliases, tags=tags)
        contracts = {version: one for version, one in observed.contracts.items() if version.name not in gone}
        contradictions = {version: one for version, one in observed.contradictions.items() if version.name not in gone}
        intents = {key: intent for key, intent in observed.intents.items() if key[0] not in gone}
        suspects = frozenset(version for version in observed.suspects if version.name not in gone)
        observed = replace(
            observed, contracts=contracts, contradictions=contradictions, intents=intents, suspects=suspects
        )
    if observed.models is not None:
        observed = replace(observed, requests=observed.requests.of(models.keys() - gone))
    return before, observed


def _has_same_tags(before: ReleaseState, model: RegisteredModel) -> bool:
    return model.name in before.tags and before.models[model.name].tags == model.tags


def _follow(state: ReleaseState, settings: ReleaseSettings, now: Now) -> ReleaseState:
    """Take every alias one step further."""
    observed = state.observed
    aliases: dict[str, Aliases] = {}
    intents = dict(observed.intents)
    for name, model in state.models.items():
        known, tags = state.aliases.get(name, {}), state.tags[name]
        followed: dict[str, AliasState] = {}
        for alias, number in _desired(model, settings.default_alias).items():
            after = followed[alias] = step(
                known.get(alias),
                ModelVersion(name, number),
                state,
                now,
                intent=intents.get((name, alias)),
                forced=tags.forced == number,
                asleep=_is_asleep(state, tags.pool, now),
            )
            if (name, alias) in intents and _is_done(known.get(alias), after, intents[name, alias].version):
                del intents[name, alias]
        aliases[name] = known if followed == known else followed
    return replace(state, aliases=aliases, observed=replace(observed, intents=intents))


def _desired(model: RegisteredModel, default_alias: str) -> dict[str, str]:
    """Return the version that each alias of a model should answer, the bare name included."""
    default = model.aliases.get(default_alias) or model.latest
    return {**model.aliases, **({BARE: default} if default is not None else {})}


def _is_done(before: AliasState | None, after: AliasState, intended: str) -> bool:
    switched = before is None or before.live != after.live
    return switched or after.desired == after.live == intended


def _publish(state: ReleaseState, settings: ReleaseSettings, now: Now) -> ReleaseState:
    """Make the table of the aliases, and say what is resident."""
    in_rollout = _in_rollout(state, now)
    # An alias that desires an unloaded version asks for it again.
    requests = replace(state.observed.requests, unloaded=state.observed.requests.unloaded - in_rollout)
    observed = replace(state.observed, requests=requests)
    resident = _resident(state, requests.resident | in_rollout, requests.unloaded, settings, now)
    warm = {version for pool, versions in resident.items() if not settings.pools[pool].cold for version in versions}
    # A rollout delays readiness only at the start, when the live version may be long out of date.
    awaited = warm - in_rollout if state.was_ready else warm
    ready = observed.models is not None and all(state.members.state(one) in ("ready", "failed") for one in awaited)
    hot = [one for one in state.levels if one not in requests.unloaded and one.name in state.models]
    copies = {one: state.levels[one].copies for one in hot}
    copies |= {one: _copies(state, one, now) for versions in resident.values() for one in versions}
    table = ReleaseTable(
        state.table.term,
        state.table.epoch,
        releases={name: _release(state, model, settings, now) for name, model in state.models.items()},
        resident=resident,
        members=state.members.names,
        copies=dict(sorted(copies.items())),
        unloads=requests.unloads,
        retries=requests.retries,
        contradictions=observed.contradictions,
        suspects=observed.suspects,
        ready=ready,
        cold_pools=frozenset(pool for pool, plan in settings.pools.items() if plan.cold),
        stale_since=observed.stale_since,
    )
    if table != state.table:
        table = replace(table, epoch=table.epoch + 1)
    return replace(state, table=table, observed=observed, was_ready=state.was_ready or ready)


def _copies(state: ReleaseState, version: ModelVersion, now: Now) -> int:
    """Return how many members should hold a resident version: one until the first has loaded it.

    A version that kills its process while it is loaded kills one of them. After a restart members are yet to report.
    """
    if now.monotonic < state.grace_until or state.members.has_tried(version):
        return state.members.copies_of(version)
    return 1


def _in_rollout(state: ReleaseState, now: Now) -> set[ModelVersion]:
    """Return the versions that rollouts need in memory; a pool at zero replicas loads none."""
    rollouts = [
        (name, one)
        for name, aliases in state.aliases.items()
        for one in aliases.values()
        if one.desired != one.live and not _is_asleep(state, state.tags[name].pool, now)
    ]
    compared = {ModelVersion(name, one.live) for name, one in rollouts} - state.observed.requests.unloaded
    return compared | {ModelVersion(name, one.desired) for name, one in rollouts}


def _is_asleep(state: ReleaseState, pool: str, now: Now) -> bool:
    """Whether a pool has scaled to zero; shortly after a restart its members may not have reported yet."""
    return state.members.is_asleep(pool) and now.monotonic >= state.grace_until


def _release(state: ReleaseState, model: RegisteredModel, settings: ReleaseSettings, now: Now) -> Release:
    aliases, tags = state.aliases[model.name], state.tags[model.name]
    blocked = {alias: one.reason or "" for alias, one in aliases.items() if one.phase == "blocked"}
    if tags.pool not in settings.pools:
        waiting = [alias for alias, one in aliases.items() if one.phase == "warming"]
        pools = ", ".join(settings.pools)
        reason = f"pool '{tags.pool}', where it belongs by its tag {POOL_TAG}, is not configured; there are: {pools}"
        blocked |= dict.fromkeys(waiting, reason)
    if settings.default_alias in blocked:
        blocked.pop(BARE, None)  # it would repeat the same
    return Release(
        model.name,
        state.live(model.name, BARE),
        {alias: one.live for alias, one in aliases.items() if alias != BARE},
        tags.pool,
        model.created,
        tags.batch,
        _traffic(state, model.name, tags, now),
        blocked,
        tags.isolated,
    )


def _traffic(state: ReleaseState, name: str, tags: ModelTags, now: Now) -> Traffic | None:
    """Return as much of the traffic plan as can be in force."""
    default = state.live(name, BARE)
    if tags.traffic is NO_TRAFFIC or default is None:
        return None
    aliases = state.aliases[name]

    def is_warm(one: AliasState) -> bool:
        version = ModelVersion(name, one.live)
        if state.members.holds(version) or state.members.is_asleep(tags.pool):
            return True
        return now.monotonic < state.grace_until and one.proven and state.members.state(version) != "failed"

    warm = {alias: aliases[alias].live for alias in tags.traffic.aliases & aliases.keys() if is_warm(aliases[alias])}
    return tags.traffic.in_force(warm, default=default)


def _resident(
    state: ReleaseState,
    wanted: Set[ModelVersion],
    unloaded: frozenset[ModelVersion],
    settings: ReleaseSettings,
    now: Now,
) -> dict[str, tuple[ModelVersion, ...]]:
    """Return per pool the versions that should be in memory whether or not they are called."""
    references = [parse_ref(reference) for reference in settings.preload if reference != _ALL]
    named = [(ref.name, ref.version or state.live(ref.name, ref.alias or BARE)) for ref in references]
    wanted = wanted | {ModelVersion(name, number) for name, number in named if number is not None}
    recent = now.wall - settings.keep_previous_s
    for name, aliases in state.aliases.items():
        numbers = {aliases[alias].live for alias in state.tags[name].traffic.aliases & aliases.keys()}
        if _ALL in settings.preload and settings.default_alias in aliases:
            numbers.add(aliases[BARE].live)
        for one in aliases.values():
            if one.previous is not None and one.since > recent:
                numbers |= {one.previous, one.live}
        wanted |= {ModelVersion(name, number) for number in numbers}
    resident: dict[str, list[ModelVersion]] = {pool: [] for pool in sorted(settings.pools)}
    for version in sorted(wanted - unloaded):
        resident.get(state.tags_of(version.name).pool, []).append(version)
    return {pool: tuple(versions) for pool, versions in resident.items()}


def _effects(before: ReleaseState, after: ReleaseState, settings: ReleaseSettings) -> Effects:
    is_first = before.table.epoch == 0  # a tag may have been left out when the process died
    live_tags: dict[str, str] = {}
    for name, aliases in after.aliases.items():
        if is_first or aliases is not before.aliases.get(name):
            tag = live_tag(aliases, settings.default_alias)
            if tag is not None and (is_first or tag != live_tag(before.aliases.get(name, {}), settings.default_alias)):
                live_tags[name] = tag
    problems = []
    for name, model in after.models.items():
        known = before.models.get(name)
        if known is None or known.tags != model.tags or known.aliases != model.aliases:
            old = problems_of(before, known) if known is not None else ()
            problems += [(name, problem) for problem in problems_of(after, model) if problem not in old]
    kept = [
        (one.models, one.aliases, one.observed.requests, one.observed.contradictions, one.table.stale_since)
        for one in (before, after)
    ]
    return Effects(kept[0] != kept[1], live_tags, problems)
