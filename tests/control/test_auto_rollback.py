"""Automatic rollback on a real registry: the counts are given, the rest is what runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from app.control.auto_rollback import LAST_TAG, AutoRollback
from app.serving.comparison.statistics import Statistics
from app.serving.references import ModelVersion
from app.settings import Settings
from tests.deployments.test_releases import V1, V2, Releases, promoted, ready, registered, registry, settings, until

pytestmark = pytest.mark.filterwarnings("ignore")
__all__ = ["registered", "settings"]

RULE = '{"error_rate": 0.05, "window_s": 60, "min_requests": 50}'


class Counted:
    """Counters of the gateways."""

    def __init__(self) -> None:
        self._versions: dict[ModelVersion, Statistics] = {}

    def add(self, version: ModelVersion, *, requests: int = 0, faults: int = 0) -> None:
        known = self._versions.get(version, Statistics(replicas=1))
        self._versions[version] = replace(
            known,
            requests=known.requests + requests,
            faults=known.faults + faults,
            request_seconds=known.request_seconds + 0.01 * requests,
        )

    async def __call__(self, version: ModelVersion) -> Statistics:
        return self._versions.get(version, Statistics(replicas=1))


def watching(releases: Any, counted: Counted) -> AutoRollback:
    return AutoRollback(releases._loop, releases._registry, releases._promotions, counted, watched_s=600)


async def after_a_promotion(settings: Settings, tags: dict[str, str]) -> tuple[Any, AutoRollback, Counted]:
    """Version 1 has answered 200 requests, then version 2 was promoted."""
    for tag, value in tags.items():
        registry(settings).set_registered_model_tag("prices", tag, value)
    releases = Releases(settings)
    counted = Counted()
    watch = watching(releases, counted)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1)
    await watch.look()
    counted.add(V1, requests=200)
    await watch.look()
    await promoted(releases)
    await watch.look()
    return releases, watch, counted


def named(settings: Settings) -> str:
    return str(registry(settings).get_registered_model("prices").aliases["champion"])


async def test_a_version_that_fails_too_often_goes_back_once(settings: Settings) -> None:
    releases, watch, counted = await after_a_promotion(settings, {"serving.rollback": RULE})
    counted.add(V2, requests=20, faults=20)
    await watch.look()
    assert named(settings) == "2", "too few requests to tell"
    counted.add(V2, requests=40, faults=20)
    await watch.look()
    assert named(settings) == "1"
    assert releases._loop.state.table.releases["prices"].default == "1"
    live = releases._loop.state.aliases["prices"]["champion"]
    assert live.why.startswith("rolled back by rule: error rate 40.0 % over 100 requests")
    record = json.loads(registry(settings).get_registered_model("prices").tags[LAST_TAG])
    assert (record["alias"], record["from"], record["to"]) == ("champion", "2", "1")
    assert record["reason"].startswith("error rate 40.0 %")
    assert record["time"]
    await watch.look()
    assert named(settings) == "1"


async def test_a_version_that_does_well_stays(settings: Settings) -> None:
    _, watch, counted = await after_a_promotion(settings, {"serving.rollback": RULE})
    counted.add(V2, requests=500, faults=2)
    await watch.look()
    assert named(settings) == "2"


async def test_a_version_promoted_again_is_judged_by_new_traffic(settings: Settings) -> None:
    releases, watch, counted = await after_a_promotion(settings, {"serving.rollback": RULE})
    counted.add(V2, requests=60, faults=40)
    await watch.look()
    assert named(settings) == "1"
    await promoted(releases)  # its fault has been fixed
    await watch.look()
    assert named(settings) == "2"
    counted.add(V2, requests=60)
    await watch.look()
    assert named(settings) == "2"
    counted.add(V2, requests=20, faults=40)
    await watch.look()
    assert named(settings) == "1"


async def test_traffic_under_another_alias_does_not_count(settings: Settings) -> None:
    registry(settings).set_registered_model_alias("prices", "challenger", "2")
    registry(settings).set_registered_model_tag("prices", "serving.rollback", RULE)
    releases = Releases(settings)
    counted = Counted()
    watch = watching(releases, counted)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1, V2)
    await watch.look()
    counted.add(V1, requests=200)
    counted.add(V2, requests=60, faults=40)
    await watch.look()
    await promoted(releases)
    await watch.look()
    assert named(settings) == "2"


async def test_a_move_to_a_third_version_is_not_called_off(settings: Settings) -> None:
    registry(settings).create_model_version("prices", f"{settings.home}/artifacts")
    releases, watch, counted = await after_a_promotion(settings, {"serving.rollback": RULE})
    counted.add(V2, requests=60, faults=40)
    registry(settings).set_registered_model_alias("prices", "champion", "3")  # what fails has been mended in this one
    await watch.look()
    assert named(settings) == "3"
    assert LAST_TAG not in registry(settings).get_registered_model("prices").tags
    await ready(releases, V1, V2, ModelVersion("prices", "3"))
    await until(releases, lambda table: table.releases["prices"].default == "3")
    await watch.look()
    assert named(settings) == "3"


@pytest.mark.parametrize("tags", [{}, {"serving.rollback": "soon"}])
async def test_without_a_valid_rule_nothing_goes_back(settings: Settings, tags: dict[str, str]) -> None:
    _, watch, counted = await after_a_promotion(settings, tags)
    counted.add(V2, faults=500)
    await watch.look()
    assert named(settings) == "2"
