from itertools import pairwise

from prometheus_client import CollectorRegistry

from app.metrics.releases import ReleaseMetrics
from app.serving.releases.table import Release, ReleaseTable


def table(*, stale_since: float | None = None, blocked: dict[str, str] | None = None, **aliases: str) -> ReleaseTable:
    release = Release("prices", aliases.get("champion"), aliases, "default", blocked=blocked or {})
    return ReleaseTable(1, 1, {"prices": release}, stale_since=stale_since)


def test_rollouts_blocked_aliases_and_outages_are_shown() -> None:
    registry = CollectorRegistry()
    metrics = ReleaseMetrics(registry)
    tables = [
        ReleaseTable(),
        table(champion="1"),
        table(champion="2", challenger="3"),
        table(champion="2", challenger="3", blocked={"champion": "it is broken"}, stale_since=1_700_000_000.0),
    ]
    for before, after in pairwise(tables):
        metrics.observe(before, after)

    champion = {"model": "prices", "alias": "champion"}
    assert registry.get_sample_value("ml_serve_alias_switches_total", champion) == 1
    assert registry.get_sample_value("ml_serve_alias_switches_total", {**champion, "alias": "challenger"}) is None
    assert registry.get_sample_value("ml_serve_alias_blocked", champion) == 1
    assert registry.get_sample_value("ml_serve_registry_stale_since_seconds") == 1_700_000_000.0

    metrics.observe(tables[-1], table(champion="3", challenger="3"))
    assert registry.get_sample_value("ml_serve_alias_switches_total", champion) == 2
    assert registry.get_sample_value("ml_serve_alias_blocked", champion) is None
    assert registry.get_sample_value("ml_serve_registry_stale_since_seconds") == 0


def test_the_series_of_an_alias_end_with_it() -> None:
    registry = CollectorRegistry()
    metrics = ReleaseMetrics(registry)
    champion, challenger = ({"model": "prices", "alias": alias} for alias in ("champion", "challenger"))
    tables = [
        table(champion="1", challenger="1"),
        table(champion="2", challenger="2"),
        table(champion="2"),
        ReleaseTable(1, 4),
        table(champion="1"),
    ]
    expected = [(1, 1), (1, None), (None, None), (None, None)]
    for (before, after), counts in zip(pairwise(tables), expected, strict=True):
        metrics.observe(before, after)
        counted = [registry.get_sample_value("ml_serve_alias_switches_total", of) for of in (champion, challenger)]
        assert tuple(counted) == counts
