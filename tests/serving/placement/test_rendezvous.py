from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.serving.placement.rendezvous import ranked
from app.serving.references import ModelVersion

VERSIONS = [ModelVersion(f"model-{number}", "1") for number in range(300)]
members = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12)


@given(members, st.integers(1, 14))
def test_holders_are_distinct_and_as_many_as_possible(names: set[str], copies: int) -> None:
    holders = ranked(frozenset(names), VERSIONS[0])[:copies]
    assert len(set(holders)) == len(holders) == min(copies, len(names))
    assert set(holders) <= names


@given(members)
def test_ranks_do_not_depend_on_the_order_of_names(names: set[str]) -> None:
    of = ranked.__wrapped__  # without the cache, for which both are the same
    assert of(sorted(names), VERSIONS[0]) == of(sorted(names, reverse=True), VERSIONS[0])


@given(members, st.integers(1, 4))
def test_a_member_that_leaves_moves_only_what_it_held(names: set[str], copies: int) -> None:
    gone = min(names)
    before, after = frozenset(names), frozenset(names - {gone})
    for version in VERSIONS[:40]:
        holders = ranked(before, version)[:copies]
        if gone not in holders:
            assert ranked(after, version)[:copies] == holders
        else:
            kept = [member for member in holders if member != gone]
            assert list(ranked(after, version)[:copies])[: len(kept)] == kept


def test_a_new_member_takes_its_share_and_moves_nothing_else() -> None:
    before, after = frozenset("abc"), frozenset("abcd")
    moved = [version for version in VERSIONS if ranked(before, version)[0] != ranked(after, version)[0]]
    assert all(ranked(after, version)[0] == "d" for version in moved)
    assert len(VERSIONS) / 8 < len(moved) < len(VERSIONS) / 2


def test_versions_are_spread_evenly() -> None:
    members = frozenset("abcd")
    shares = Counter(member for version in VERSIONS for member in ranked(members, version)[:2])
    assert sum(shares.values()) == 2 * len(VERSIONS)
    assert max(shares.values()) < 1.5 * min(shares.values())
