"""Observations of the registry, of pool members and of callers; each event makes a new value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.serving.placement.pool_members import MemberReport
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.releases.alias_state import Intent
from app.serving.releases.load_requests import LoadRequests
from app.serving.releases.registered_model import RegisteredModel

Specs = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """Inputs and parameters of a version's signature, as in `ModelSpec`. Compared by identity."""

    inputs: Specs
    params: Specs = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Inputs of `reconcile`.

    Attributes:
        models: the registry, by name; None before it was read, where no snapshot has it either.
        members: the last report of each pool member, by the member's id.
        contracts: signatures of versions that members loaded.
        contradictions: per version how a gateway replica saw that it is not row-wise.
        suspects: versions during whose load a pool member died.
        intents: per model and alias the cause of a switch that this process is about to write.
        stale_since: since when the registry has not been read, in seconds since 1970; None while it answers.
    """

    models: Mapping[str, RegisteredModel] | None = None
    members: Mapping[str, MemberReport] = field(default_factory=dict)
    contracts: Mapping[ModelVersion, Contract] = field(default_factory=dict)
    contradictions: Mapping[ModelVersion, str] = field(default_factory=dict)
    suspects: frozenset[ModelVersion] = frozenset()
    requests: LoadRequests = field(default_factory=LoadRequests)
    intents: Mapping[tuple[str, str], Intent] = field(default_factory=dict)
    stale_since: float | None = None

    def read(self, *models: RegisteredModel) -> Observed:
        """Take over models that were read one by one."""
        return replace(self, models={**(self.models or {}), **{model.name: model for model in models}})

    def reported(
        self,
        member_id: str,
        pool: str,
        states: Mapping[ModelVersion, VersionState],
        contracts: Mapping[ModelVersion, Contract],
        *,
        orders: Mapping[ModelVersion, int],
        now: float,
    ) -> Observed:
        """Take over what a pool member holds, and the signatures of what it loaded.

        Args:
            orders: per version how many of `LoadRequests.orders` the member has carried out. What it reports of a
                version that it has yet to drop or to try again does not count.
        """
        states = {one: state for one, state in states.items() if orders.get(one, 0) >= self.requests.orders(one)}
        known = self.members.get(member_id, MemberReport(pool))
        members = {**self.members, member_id: MemberReport(pool, states, now, known.busy)}
        all_contracts = with_contracts(self.contracts, contracts) if contracts else self.contracts
        return replace(self, members=members, contracts=all_contracts)

    def heard_of(self, member_id: str, now: float, busy: Mapping[ModelVersion, float] | None = None) -> Observed:
        """Note that a known member is alive, and how busy its versions keep it."""
        known = self.members.get(member_id)
        if known is None:
            return self
        report = replace(known, seen=now, busy=known.busy if busy is None else busy)
        return replace(self, members={**self.members, member_id: report})

    def contradicted(self, version: ModelVersion, reason: str) -> Observed:
        """Note that a version of a known model is not row-wise."""
        if version.name not in (self.models or {}) or version in self.contradictions:
            return self
        return replace(self, contradictions={**self.contradictions, version: reason})

    def left(self, member_id: str) -> Observed:
        """Drop a member that has ended."""
        return replace(self, members={known: report for known, report in self.members.items() if known != member_id})

    def died(self, member_id: str) -> Observed:
        """Drop a member that has ended without a word. The versions that it was loading are suspects."""
        states = self.members[member_id].states if member_id in self.members else {}
        begun = {version for version, state in states.items() if state.begun}
        return replace(self.left(member_id), suspects=self.suspects | begun)

    def pin(self, version: ModelVersion) -> Observed:
        """Keep a version resident."""
        tried = self._try_again(version)
        return replace(tried, requests=tried.requests.pin(version))

    def want(self, version: ModelVersion) -> Observed:
        """Keep a version in memory until `LoadRequests.unwant` is called as often."""
        tried = self._try_again(version)
        return replace(tried, requests=tried.requests.want(version))

    def unload(self, version: ModelVersion) -> Observed:
        """Have all members drop a version; none counts as holding it until it has dropped it and reports it again."""
        members = {member_id: report.without(version) for member_id, report in self.members.items()}
        suspects = self.suspects - {version}
        return replace(self, members=members, suspects=suspects, requests=self.requests.unload(version))

    def _try_again(self, version: ModelVersion) -> Observed:
        tried = {
            member_id: report.without(version)
            for member_id, report in self.members.items()
            if (state := report.states.get(version)) is not None and state.state == "failed"
        }
        if not tried:
            return self
        return replace(self, members={**self.members, **tried}, requests=self.requests.retry(version))


def with_contracts(
    known: Mapping[ModelVersion, Contract], reported: Mapping[ModelVersion, Contract]
) -> dict[ModelVersion, Contract]:
    """Add contracts; equal ones of one model share one object, since those of all versions are kept."""
    contracts, last = dict(known), {version.name: contract for version, contract in known.items()}
    for version, contract in reported.items():
        other = last.get(version.name)
        if other is None or (other.inputs, other.params) != (contract.inputs, contract.params):
            other = last[version.name] = contract
        contracts[version] = other
    return contracts
