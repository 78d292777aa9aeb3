"""What is counted of models whose calls are divided or copied, so that their versions can be compared.

Each gateway replica counts in a `TrafficTally`; `VariantCounts` and `ShadowCounts` add up over replicas, and
`app.serving.comparison.compare` reads them. Counting begins anew whenever a model's traffic changes: what came at
other times,
or by other weights, fell on the versions unevenly and would pass for a difference between them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from app.serving.comparison.error_attribution import is_fault
from app.serving.comparison.prediction_diff import Disagreement
from app.serving.confidence import NO_NUMBERS, Moments
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.releases.traffic import Traffic

COMPARED = "compared"
INCOMPARABLE = "incomparable"
"""Outcomes of a copy that was answered; else the outcome is the code of its error."""


class ShadowPair(NamedTuple):
    """The version that answered callers, and the one that got the copies."""

    name: str
    version: str
    shadow: str


class ShadowResult(NamedTuple):
    """One copy that came to an end.

    `outcome` is `COMPARED`, `INCOMPARABLE` or the code of an error. `seconds` is what the shadow took, and `base_s`
    what the caller's answer did, features left out of both.
    """

    outcome: str
    seconds: float
    base_s: float
    rows: int
    disagreement: Disagreement | None = None

    @property
    def mismatched_rows(self) -> int:
        """Those of an answer that cannot be compared are all of them."""
        return self.disagreement.mismatched_rows if self.disagreement is not None else self.rows


@dataclass(frozen=True, slots=True)
class VariantCounts:
    """Calls of a bare name that one version got while they were divided or copied.

    `since` is when counting began and `until` when the model was last counted, in seconds since 1970. `seconds` holds
    one number per answered request, and `predictions` the mean of each answer that has numbers. `faults` are errors
    that count against the version.
    """

    since: float | None = None
    until: float | None = None
    faults: int = 0
    seconds: Moments = NO_NUMBERS
    predictions: Moments = NO_NUMBERS

    def __add__(self, other: VariantCounts) -> VariantCounts:
        return VariantCounts(
            _outermost(min, self.since, other.since),
            _outermost(max, self.until, other.until),
            self.faults + other.faults,
            self.seconds + other.seconds,
            self.predictions + other.predictions,
        )


NOTHING_DIVIDED = VariantCounts()


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """Copies that one version got of another's requests.

    `outcomes` counts requests by how they ended, `dropped` those that were not sent, by cause. `rows` and
    `mismatched_rows` are of those that were answered: one that is incomparable has all of its rows mismatched.
    `differences`, `relative` and `slower` (seconds, negative where the shadow was faster) hold one number per request.
    `since` and `until` as in `VariantCounts`.
    """

    since: float | None = None
    until: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    mismatched_rows: int = 0
    differences: Moments = NO_NUMBERS
    largest: float = 0.0
    relative: Moments = NO_NUMBERS
    slower: Moments = NO_NUMBERS

    def __add__(self, other: ShadowCounts) -> ShadowCounts:
        return ShadowCounts(
            _outermost(min, self.since, other.since),
            _outermost(max, self.until, other.until),
            Counter(self.outcomes) + Counter(other.outcomes),
            Counter(self.dropped) + Counter(other.dropped),
            self.rows + other.rows,
            self.mismatched_rows + other.mismatched_rows,
            self.differences + other.differences,
            max(self.largest, other.largest),
            self.relative + other.relative,
            self.slower + other.slower,
        )


NOTHING_COPIED = ShadowCounts()


class TrafficTally:
    """Counts of every model with traffic, in one gateway replica.

    Args:
        traffic: what is in force for a model now. Calls that began under another traffic are not counted.
        wall: seconds since 1970.
    """

    def __init__(self, traffic: Callable[[str], Traffic | None], wall: Callable[[], float] = time.time) -> None:
        self._traffic = traffic
        self._wall = wall
        self._models: dict[str, _ModelTally] = {}

    def follow(self, before: ReleaseTable, table: ReleaseTable) -> None:
        """Another table is in force: begin anew where traffic has changed, also for replicas that no call tells so.

        What was counted stays when a model's traffic ends, until there is some again.
        """
        for name in table.renewed(before):
            self._models.pop(name, None)
        for name in list(self._models):
            old, new = before.releases.get(name), table.releases.get(name)
            traffic = new.traffic if new is not None else None
            if traffic is not None and (old is None or old.traffic != traffic):
                del self._models[name]

    def answered(self, version: ModelVersion, traffic: Traffic, seconds: float, prediction: float | None) -> None:
        """A call of the bare name was answered; `prediction` is the mean of the numbers in the answer."""
        model = self._of(version.name, traffic)
        if model is None:
            return
        tally = model.variant(version.version)
        tally.seconds.add(seconds)
        if prediction is not None:
            tally.predictions.add(prediction)

    def failed(self, version: ModelVersion, traffic: Traffic, code: str) -> None:
        """A call of the bare name was answered with an error of this code."""
        model = self._of(version.name, traffic)
        if model is not None and is_fault(code):
            model.variant(version.version).faults += 1

    def shadowed(self, pair: ShadowPair, traffic: Traffic, result: ShadowResult) -> None:
        """A copy came to an end."""
        model = self._of(pair.name, traffic)
        if model is None:
            return
        tally = model.shadow(pair)
        tally.outcomes[result.outcome] += 1
        if result.outcome not in (COMPARED, INCOMPARABLE):
            return
        found = result.disagreement
        tally.rows += result.rows
        tally.mismatched_rows += result.mismatched_rows
        tally.slower.add(result.seconds - result.base_s)
        if found is not None and found.difference is not None:
            tally.differences.add(found.difference)
            tally.relative.add(found.relative or 0.0)
            tally.largest = max(tally.largest, found.largest or 0.0)

    def dropped(self, pair: ShadowPair, traffic: Traffic, cause: str) -> None:
        """A copy was not sent."""
        model = self._of(pair.name, traffic)
        if model is not None:
            model.shadow(pair).dropped[cause] += 1

    def variant(self, version: ModelVersion) -> VariantCounts:
        """What was counted for a version since its model's traffic last changed."""
        model = self._models.get(version.name)
        tally = model.variants.get(version.version) if model is not None else None
        if model is None or tally is None:
            return NOTHING_DIVIDED
        return VariantCounts(
            model.since, model.until, tally.faults, tally.seconds.moments(), tally.predictions.moments()
        )

    def shadows(self, version: ModelVersion) -> dict[str, ShadowCounts]:
        """What a version did as a shadow, by the version whose requests were copied."""
        model = self._models.get(version.name)
        if model is None:
            return {}
        return {
            pair.version: ShadowCounts(
                model.since,
                model.until,
                dict(tally.outcomes),
                dict(tally.dropped),
                tally.rows,
                tally.mismatched_rows,
                tally.differences.moments(),
                tally.largest,
                tally.relative.moments(),
                tally.slower.moments(),
            )
            for pair, tally in model.shadows.items()
            if pair.shadow == version.version
        }

    def _of(self, name: str, traffic: Traffic) -> _ModelTally | None:
        """Where to count a call that began under this traffic; None where that is no longer in force."""
        current = self._traffic(name)
        if current is None or (current is not traffic and current != traffic):
            return None
        now = self._wall()
        model = self._models.get(name)
        if model is None or (model.traffic is not current and model.traffic != current):
            model = self._models[name] = _ModelTally(current, now)
        model.until = now
        model.traffic = current  # equal to what it was, but the object that the next calls have
        return model


class _Numbers:
    """`Moments` that grow (Welford)."""

    __slots__ = ("count", "deviations", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.deviations = 0.0

    def add(self, number: float) -> None:
        self.count += 1
        apart = number - self.mean
        self.mean += apart / self.count
        self.deviations += apart * (number - self.mean)

    def moments(self) -> Moments:
        return Moments(self.count, self.mean, self.deviations)


class _VariantTally:
    __slots__ = ("faults", "predictions", "seconds")

    def __init__(self) -> None:
        self.faults = 0
        self.seconds = _Numbers()
        self.predictions = _Numbers()


class _ShadowTally:
    __slots__ = (
        "differences", "dropped", "largest", "mismatched_rows", "outcomes", "relative", "rows", "slower",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.rows = 0
        self.mismatched_rows = 0
        self.differences = _Numbers()
        self.largest = 0.0
        self.relative = _Numbers()
        self.slower = _Numbers()


class _ModelTally:
    """One model's counts since its traffic last changed."""

    __slots__ = ("shadows", "since", "traffic", "until", "variants")

    def __init__(self, traffic: Traffic, since: float) -> None:
        self.traffic = traffic
        self.since = since
        self.until = since
        self.variants: dict[str, _VariantTally] = {}
        self.shadows: dict[ShadowPair, _ShadowTally] = {}

    def variant(self, version: str) -> _VariantTally:
        tally = self.variants.get(version)
        if tally is None:
            tally = self.variants[version] = _VariantTally()
        return tally

    def shadow(self, pair: ShadowPair) -> _ShadowTally:
        tally = self.shadows.get(pair)
        if tally is None:
            tally = self.shadows[pair] = _ShadowTally()
        return tally


def _outermost(pick: Callable[..., float], one: float | None, other: float | None) -> float | None:
    given = [moment for moment in (one, other) if moment is not None]
    return pick(given) if given else None
