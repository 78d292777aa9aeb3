"""`kill -9` of the processes that are not replicas."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.faulty import FACTORS, Faulty, factors, until
from tests.faults.rehearsal import processes, rehearse

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

LASTING_S = 65.0
"""A platform that ends by itself sooner than a minute after its start is not started again."""
RAY_BESIDE = ("log_monitor.py", "dashboard.py", "monitor.py")
"""Processes of Ray that no request needs."""


@pytest.mark.parametrize(
    ("what", "title"),
    [("Serve's controller", "ray::ServeController"), ("Serve's second proxy", "ray::ProxyActor")],
)
async def test_killing_a_part_beside_requests_costs_none(faulty: Faulty, what: str, title: str) -> None:
    (victim,) = processes(title)
    seen = await rehearse(faulty, what, victim.kill)
    assert seen.failed == []
    until(lambda: processes(title) not in ([], [victim]))


async def test_killing_the_processes_beside_ray_costs_no_request(faulty: Faulty) -> None:
    victims = processes(*RAY_BESIDE)
    assert len(victims) == len(RAY_BESIDE)

    def kill() -> None:
        for victim in victims:
            victim.kill()

    assert (await rehearse(faulty, "Ray's log and dashboard processes", kill)).failed == []


async def test_killing_a_worker_changes_no_answer(faulty: Faulty) -> None:
    assert factors() == FACTORS
    victim = processes("ray::ModelWorker")[-1]

    def kill() -> None:
        victim.kill()
        assert factors() == FACTORS

    assert (await rehearse(faulty, "a worker process", kill)).failed == []


@pytest.mark.parametrize(("what", "title"), [("HAProxy", "/haproxy"), ("HAProxy's manager", "ray::HAProxyManager")])
async def test_the_load_balancer_is_back_within_seconds(faulty: Faulty, what: str, title: str) -> None:
    victim = processes(title)[-1]
    seen = await rehearse(faulty, what, victim.kill, after_s=4.0)
    assert seen.failed != []
    assert not [outcome for outcome in seen.failed if outcome.sent < seen.began - 1]
    late = [outcome for outcome in seen.outcomes if outcome.sent > seen.began + seen.failing_s]
    assert late != [], "it answers again"


@pytest.mark.parametrize(("what", "title"), [("a node's agent", "ray::RuntimeEnvAgent"), ("Ray's GCS", "/gcs_server")])
async def test_the_platform_starts_again_without_ray(faulty: Faulty, what: str, title: str) -> None:
    command = faulty.platform.command()
    faulty.wait_until_whole()
    await asyncio.sleep(LASTING_S)
    (victim,) = processes(title)
    before = faulty.platform.output().count("starting again")

    def kill() -> None:
        victim.kill()
        until(lambda: faulty.platform.output().count("starting again") > before)

    seen = await rehearse(faulty, what, kill)
    assert faulty.platform.command() == command
    assert factors() == FACTORS
    assert seen.failed != []
