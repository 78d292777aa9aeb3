"""Plans of traffic, their tags, and the version that each call gets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.serving.releases.traffic import NO_TRAFFIC, Traffic, TrafficPlan, Variant, make_plan, read_tags

SPLIT = Traffic((Variant("champion", "1", 90.0), Variant("challenger", "2", 10.0)))
KEYS = [f"customer-{n}" for n in range(20_000)]


def chosen(traffic: Traffic, name: str = "prices") -> dict[str, str]:
    return {key: traffic.choose(name, key) for key in KEYS}


def split(**weights: float) -> Traffic:
    """Alias and percent; the alias is the version."""
    return Traffic(tuple(Variant(alias, alias, weight) for alias, weight in weights.items()))


def test_callers_are_split_by_weight() -> None:
    shares = Counter(chosen(SPLIT).values())
    assert shares["2"] / len(KEYS) == pytest.approx(0.1, abs=0.01)


def test_a_caller_gets_the_same_version_on_every_replica() -> None:
    # Known values: a change of the hash would move every caller in the middle of an experiment.
    assert [SPLIT.choose("prices", f"customer-{n}") for n in (1, 0, 13, 25, 21)] == ["1", "2", "2", "2", "1"]
    assert chosen(SPLIT) == chosen(SPLIT)


def test_models_are_split_independently() -> None:
    prices, volumes = chosen(SPLIT), chosen(SPLIT, "volumes")
    both = sum(prices[key] == volumes[key] == "2" for key in KEYS)
    assert both / len(KEYS) == pytest.approx(0.01, abs=0.005)


def test_a_growing_share_keeps_the_callers_that_it_has() -> None:
    before, after = chosen(split(champion=90, challenger=10)), chosen(split(champion=70, challenger=30))
    assert {key for key in KEYS if before[key] == "challenger"} <= {key for key in KEYS if after[key] == "challenger"}


def moves(before: dict[str, float], after: dict[str, float]) -> Counter[tuple[str, str]]:
    """Callers by the alias that they leave and the one that they come to."""
    pairs = zip(chosen(split(**before)).values(), chosen(split(**after)).values(), strict=True)
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def test_shares_that_grow_alike_take_no_callers_from_each_other() -> None:
    moved = moves({"champion": 90, "a": 5, "b": 5}, {"champion": 80, "a": 10, "b": 10})
    assert moved.keys() == {("champion", "a"), ("champion", "b")}
    assert moved.total() / len(KEYS) == pytest.approx(0.1, abs=0.01)


def test_a_new_alias_moves_no_callers_between_the_others() -> None:
    assert {to for _, to in moves({"champion": 80, "b": 20}, {"champion": 60, "b": 15, "a": 25})} == {"a"}
    assert {left for left, _ in moves({"champion": 60, "b": 15, "a": 25}, {"champion": 80, "b": 20})} == {"a"}


def test_a_small_change_among_many_moves_few() -> None:
    others = dict.fromkeys("abcd", 10.0)
    moved = moves({"champion": 50, **others, "e": 10}, {"champion": 45, **others, "e": 15})
    assert 0.05 <= moved.total() / len(KEYS) <= 0.08
    assert not {to for left, to in moved if left == "e"}, "whose share grows keeps its callers"


def test_calls_without_a_key_are_left_to_chance() -> None:
    shares = Counter(SPLIT.choose("prices", None) for _ in KEYS)
    assert shares["2"] / len(KEYS) == pytest.approx(0.1, abs=0.01)


def test_weights_that_miss_100_by_rounding_are_shares() -> None:
    shares = Counter(chosen(split(a=33.3333333, b=33.3333333, c=33.3333333)).values())
    assert all(count / len(KEYS) == pytest.approx(1 / 3, abs=0.02) for count in shares.values())


def test_two_aliases_of_one_version_give_it_both_shares() -> None:
    traffic = Traffic((Variant("champion", "1", 50.0), Variant("canary", "1", 25.0), Variant("challenger", "2", 25.0)))
    shares = Counter(chosen(traffic).values())
    assert shares["1"] / len(KEYS) == pytest.approx(0.75, abs=0.02)


def test_keys_may_hold_any_text() -> None:
    assert {SPLIT.choose("prices", key) for key in ("", "ü", "\ud800", "a\0b", "x" * 10_000)} <= {"1", "2"}


def test_a_plan_is_read_from_the_tags_that_it_writes() -> None:
    plan = make_plan({"champion": 90, "challenger": 10}, "next")
    assert read_tags({tag: text for tag, text in plan.tags().items() if text is not None}) == (plan, ())
    assert plan.aliases == {"champion", "challenger", "next"}
    assert NO_TRAFFIC.tags() == {"serving.traffic": None, "serving.shadow": None}
    assert read_tags({}) == (NO_TRAFFIC, ())
    assert read_tags({"serving.shadow": "next"}) == (TrafficPlan((), "next"), ())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"champion": 90}, "the weights sum up to 90; they must sum up to 100"),
        ({"champion": 110, "challenger": -10}, "expected percent, a number from 0 to 100"),
        ({"champion": True}, "expected percent, a number from 0 to 100"),
        ({"champion": "100"}, "expected percent, a number from 0 to 100"),
        ({"champion": float("nan")}, "expected percent, a number from 0 to 100"),
        ({f"alias-{n}": 0 for n in range(17)}, "at most 16 can share it"),
    ],
)
def test_invalid_weights_are_refused(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        make_plan(weights)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is no JSON object of aliases and percent"),
        ('{"champion": 50}', "the weights sum up to 50; they must sum up to 100"),
    ],
)
def test_an_invalid_split_is_reported_and_keeps_the_shadow(text: str, problem: str) -> None:
    expected = TrafficPlan((), "next"), (f"tag serving.traffic is ignored: {problem}",)
    assert read_tags({"serving.traffic": text, "serving.shadow": "next"}) == expected


def test_a_cold_alias_leaves_its_share_to_the_default() -> None:
    plan = make_plan({"champion": 90, "challenger": 10}, "next")
    cold = plan.in_force({"champion": "1"}, default="1")
    warm = plan.in_force({"champion": "1", "challenger": "2", "next": "3"}, default="1")
    assert cold == Traffic((Variant("champion", "1", 90.0), Variant("challenger", "1", 10.0)))
    assert warm == Traffic(SPLIT.variants, Variant("next", "3"))
    assert warm is not None
    # Whoever has the challenger gets it again when it is warm again, and nobody else does.
    assert {key for key in KEYS if warm.choose("prices", key) == "2"} == {
        key for key, version in chosen(SPLIT).items() if version == "2"
    }
    assert TrafficPlan((), "next").in_force({}, default="1") is None
