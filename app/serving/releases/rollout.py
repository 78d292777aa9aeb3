"""One step of a rollout: an alias switches once its desired version is loaded, warm and compatible."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from app.serving.placement.pool_members import PoolMembers
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import FIRST, MOVED, AliasState, Intent, Phase, Refusal
from app.serving.releases.observed import Contract
from app.serving.releases.release_state import Now, ReleaseState
from app.serving.signatures.compatibility import incompatibilities

_Refused: TypeAlias = tuple[Refusal, str]
_COMPARISONS = 256


def step(
    before: AliasState | None,
    wanted: ModelVersion,
    state: ReleaseState,
    now: Now,
    *,
    intent: Intent | None,
    forced: bool,
    asleep: bool,
) -> AliasState:
    """Take an alias one step further.

    Args:
        before: its last state; None for an alias that is seen for the first time, which answers at once.
        wanted: the desired version.
        intent: the cause of a switch, if this process is about to write one.
        forced: accept differences of the inputs and a failed example.
        asleep: the pool is scaled to zero and can warm nothing. The alias switches unless a refusal is remembered.
    """
    if before is None:
        return _switched(None, wanted, state, now, intent)
    if before.live == wanted.version:
        return _settled(before, wanted, state, intent)
    compare = not forced and wanted.version != before.previous  # the previous version may always come back
    known: _Refused | None = None
    if before.desired == wanted.version and before.refusal is not None:
        known = before.refusal, before.reason or ""
    if asleep:
        refused = known if known is not None and (compare or known[0] == "broken") else None
        can_switch = refused is None
    else:
        can_switch, refused = _judge(ModelVersion(wanted.name, before.live), wanted, state, now, compare=compare)
    if can_switch:
        return _switched(before, wanted, state, now, intent)
    refusal, reason = refused or known or (None, None)
    phase: Phase = "blocked" if refused is not None else "warming"
    return replace(before, desired=wanted.version, phase=phase, refusal=refusal, reason=reason)


def _judge(
    before: ModelVersion, after: ModelVersion, state: ReleaseState, now: Now, *, compare: bool
) -> tuple[bool, _Refused | None]:
    """Return whether one version may follow another now, and if not, why it never may; None to wait."""
    loaded = state.members.state(after)
    if loaded == "failed":
        return False, ("broken", load_error(state.members, after))
    complete = now.monotonic >= state.reunion_until  # every member that is alive has reported, as far as can be known
    if loaded != "ready" or not complete or (compare and not _is_comparable(before, after, state)):
        return False, None
    objection = objection_to(after, before, state) if compare else None
    return objection is None, ("incompatible", objection) if objection is not None else None


def objection_to(after: ModelVersion, before: ModelVersion | None, state: ReleaseState) -> str | None:
    """Return why a loaded version should not follow another one, or None."""
    problem = state.members.problem(after)
    if problem is not None:
        return f"version {after.version} is not switched to: {problem}"
    found = differences(after, before, state)
    if before is None or not found:
        return None
    return f"version {after.version} takes other inputs than version {before.version}: {'; '.join(found)}"


def differences(after: ModelVersion, before: ModelVersion | None, state: ReleaseState) -> list[str]:
    """Return what breaks callers of one version with another one, a sentence each."""
    contracts = state.observed.contracts
    if before is None or before not in contracts or after not in contracts:
        return []
    return _compare(contracts[before], contracts[after])


def load_error(members: PoolMembers, version: ModelVersion) -> str:
    """Return why members failed to load a version."""
    return members.error(version) or f"{version} cannot be loaded; the log has the cause"


@lru_cache(maxsize=_COMPARISONS)
def _compare(old: Contract, new: Contract) -> list[str]:
    return [] if old is new else incompatibilities(old.inputs, new.inputs, (old.params, new.params))


def _is_comparable(live: ModelVersion, after: ModelVersion, state: ReleaseState) -> bool:
    """Return whether all is known of two versions, the new one loaded, that can be known of them."""
    contracts = state.observed.contracts
    if after not in contracts:  # a call has loaded it; a member reports the contract of what it has to hold
        return False
    # A comparison does not load again what a caller has unloaded.
    can_load = live not in state.observed.requests.unloaded and state.members.state(live) != "failed"
    return live in contracts or not can_load


def _settled(before: AliasState, wanted: ModelVersion, state: ReleaseState, intent: Intent | None) -> AliasState:
    """Return the state of an alias that answers its desired version."""
    warm = state.members.holds(wanted)
    phase: Phase = "live" if warm else "idle"
    proven = before.proven or warm
    back = before.back or (intent is not None and intent.version == wanted.version and intent.back)
    if (before.desired, before.phase, before.proven, before.back) == (wanted.version, phase, proven, back):
        return before
    return replace(before, desired=wanted.version, phase=phase, reason=None, refusal=None, proven=proven, back=back)


def _switched(
    before: AliasState | None, wanted: ModelVersion, state: ReleaseState, now: Now, intent: Intent | None
) -> AliasState:
    if intent is None or intent.version != wanted.version:
        intent = Intent(wanted.version, FIRST if before is None else MOVED, back=False)
    warm = state.members.holds(wanted)
    return AliasState(
        desired=wanted.version,
        live=wanted.version,
        previous=before.live if before is not None else None,
        phase="live" if warm else "idle",
        since=max(now.wall, before.since if before is not None else 0.0),  # the clock may have been set back
        why=intent.why,
        back=intent.back,
        proven=warm,
    )
