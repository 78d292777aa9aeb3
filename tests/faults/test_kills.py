"""`kill -9` of each part in a promote under load: which requests fail, and what state follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.faults.faulty import LOAD_S, NAME, PER_S, WITHIN_S, Faulty
from tests.faults.rehearsal import Seen
from tests.numbered import Said
from tests.platform import URL
from tests.steady_load import SteadyLoad

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

SLOW_S = 3.0


async def promote(version: str) -> str | None:
    """Promote; return why it failed, or None."""
    async with httpx.AsyncClient(base_url=URL, timeout=WITHIN_S) as http:
        try:
            response = await http.post(f"/v1/models/{NAME}:promote", json={"version": version})
        except httpx.TransportError as error:
            return repr(error)
    return None if response.status_code == 200 else f"{response.status_code} {response.text[:200]}"


async def promote_and_kill(
    faulty: Faulty,
    version: str,
    kill: Callable[[], None],
    revive: Callable[[], None] = lambda: None,
    *,
    what: str,
) -> Seen:
    """Kill under load while a version loads, then promote until it succeeds.

    A failed promote has moved the alias or done nothing; what answers follows the registry either way.

    Args:
        what: the killed part, for the report.
    """
    async with SteadyLoad([NAME], PER_S, faulty.loads) as load:
        before = faulty.mlflow.get_registered_model(NAME).aliases["champion"]
        await load.until(NAME, before, within_s=WITHIN_S)
        await asyncio.sleep(2)  # every gateway has seen enough answers to trust the version
        promoting = asyncio.create_task(promote(version))
        await asyncio.sleep(LOAD_S / 2)
        killed = time.monotonic()
        await asyncio.to_thread(kill)
        dead = time.monotonic()
        first = failure = await promoting
        answered, again = time.monotonic(), 0
        await asyncio.to_thread(revive)
        committed = faulty.mlflow.get_registered_model(NAME).aliases["champion"] == version
        async with asyncio.timeout(WITHIN_S):
            while failure is not None and (failure := await promote(version)) is not None:
                again += 1
                await asyncio.sleep(0.5)
        since = await load.until(NAME, version, within_s=WITHIN_S)
        await asyncio.to_thread(faulty.wait_until_whole)
        whole = time.monotonic()
        await asyncio.sleep(1)  # what replaces the dead takes its share
    seen = Seen(load.outcomes, load.failed, killed, dead, whole - killed)
    lines = (
        f"the promote: {first or 'done'}, {answered - killed:.1f} s after the kill; {again} more failed",
        f"the alias was {'moved' if committed else 'not moved'} by then; it answers after {since - killed:.1f} s",
        f"all replicas are back and warm after {seen.whole_s:.1f} s, the slowest request took {seen.slowest_s:.2f} s",
    )
    print("", *lines, sep="\n  ")  # noqa: T201 - shown by `pytest -s`
    seen.tell(what)
    assert faulty.mlflow.get_registered_model(NAME).aliases["champion"] == version
    assert {outcome.version for outcome in load.outcomes if outcome.version} == {before, version}
    for outcome in load.outcomes:
        if outcome.said is not None:
            assert outcome.said == Said(outcome.version or "", unwarmed=False, awaited=False), outcome
    return seen


def killing(faulty: Faulty, deployment: str) -> Callable[[], None]:
    """Make a function that kills a replica and returns once the load balancer has closed its connections to it."""
    faulty.wait_until_whole()
    victim = faulty.platform.replicas(deployment)[0]
    ports = {one.laddr.port for one in victim.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    balancers = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "haproxy"]
    assert ports
    assert balancers

    def kill() -> None:
        victim.kill()
        with suppress(psutil.NoSuchProcess):
            while victim.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.001)
        for balancer in balancers:
            with suppress(psutil.NoSuchProcess):
                while any(getattr(one.raddr, "port", None) in ports for one in balancer.net_connections("tcp")):
                    time.sleep(0.001)

    return kill


async def test_killing_a_pool_replica_in_a_promote_costs_no_request(faulty: Faulty) -> None:
    seen = await promote_and_kill(faulty, "2", killing(faulty, "ModelPool"), what="a pool replica")
    assert seen.failed == []
    assert seen.slowest_s < SLOW_S


async def test_killing_a_gateway_in_a_promote_costs_only_its_requests(faulty: Faulty) -> None:
    seen = await promote_and_kill(faulty, "3", killing(faulty, "Gateway"), what="a gateway replica")
    assert all(outcome.sent <= seen.ended and outcome.done >= seen.began for outcome in seen.failed), "in flight"


@pytest.mark.faults
async def test_killing_releases_in_a_promote_costs_no_request(faulty: Faulty) -> None:
    assert (await promote_and_kill(faulty, "4", killing(faulty, "Releases"), what="Releases")).failed == []


@pytest.mark.faults
async def test_killing_the_registry_in_a_promote_costs_no_request(faulty: Faulty) -> None:
    seen = await promote_and_kill(faulty, "5", faulty.server.kill, faulty.server.start, what="the registry")
    assert seen.failed == []
