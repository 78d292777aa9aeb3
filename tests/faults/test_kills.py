"""`kill -9` of each part in a promote under load: which requests fail, and what state follows.

A platform of its own: two replicas of gateway and pool, and an MLflow server as registry.
"""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from app.serving.releases.traffic import Traffic, Variant
from tests import numbered
from tests.clashing import PATIENCE, factor_model, ship
from tests.conftest import environment_of_nobody
from tests.faults.registry_server import RegistryServer
from tests.faults.report import Fault, report
from tests.hostile_models import DEEDS, LOGGING, deadly_model, hostile_model
from tests.numbered import Said
from tests.platform import URL, Platform, remaining
from tests.steady_load import Outcome, SteadyLoad, told

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

NAME = "steady"
DIVIDED = "divided"
CLASHING = "clashing"
HOSTILE = "hostile"
DEADLY = "deadly"
FACTORS = {"champion": 2.0, "challenger": 100.0}
"""What the package of the version of each alias answers; both packages have the same name."""
LOAD_S = 2.0
"""Least seconds that a version takes to load; a kill within them hits the promote."""
PER_S = 50.0
PREDICT_S = 0.06
"""At so many requests a second some are on each replica at any time."""
WITHIN_S = 180
SLOW_S = 3.0
SESSIONS = [str(number) for number in range(60)]
SPLIT = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))
REPLICAS = {"Gateway": 2, "ModelPool": 2, "Releases": 1}


def until(condition: Callable[[], bool]) -> float:
    """Wait for a condition; return how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + WITHIN_S
        time.sleep(0.2)
    return time.monotonic() - began


class Faulty:
    """The platform under test and its registry."""

    def __init__(self, platform: Platform, server: RegistryServer, loads: Path) -> None:
        self.platform = platform
        self.server = server
        self.loads = loads
        self.mlflow = MlflowClient(server.uri, server.uri)

    def wait_until_whole(self) -> None:
        """Return once every replica runs, and both of the pool have what is called."""
        until(lambda: all(len(self.platform.replicas(name)) == count for name, count in REPLICAS.items()))
        until(self._is_warm)

    def _is_warm(self) -> bool:
        response = httpx.get(f"{URL}/v1/models/{NAME}", timeout=WITHIN_S)
        if response.status_code != 200:  # where `Releases` have just been started again, or no gateway is there
            return False
        model = response.json()["model"]
        return bool(model["versions"][model["default"]]["replicas"] == REPLICAS["ModelPool"])

    def register(self, name: str, *model_ids: str) -> None:
        self.mlflow.create_registered_model(name)
        for model_id in model_ids:
            self.mlflow.create_model_version(name, f"models:/{model_id}", model_id=model_id)


@pytest.fixture(scope="module")
def faulty(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Instead of the session's platform: these tests come last, and it is not started again."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    folder = tmp_path_factory.mktemp("faults")
    if platform.running:
        platform.stop()
    server = RegistryServer(folder)
    settings = {
        "MLFLOW_TRACKING_URI": server.uri,
        "ML_SERVE_GATEWAY__MIN_REPLICAS": "2",
        "ML_SERVE_POOLS__DEFAULT__MIN_REPLICAS": "2",
        "ML_SERVE_FAILED_LOAD_RETRY_S": "1",
    }
    faulty = Faulty(Platform(folder / "home", folder / "platform.log", settings), server, folder / "loads")
    try:
        server.start()
        with environment_of_nobody(), warnings.catch_warnings(record=True), pytest.MonkeyPatch.context() as monkeypatch:
            warnings.simplefilter("always")
            before = mlflow.get_tracking_uri()
            mlflow.set_tracking_uri(server.uri)
            models = [
                numbered.log(number, load_s=LOAD_S, held_in=faulty.loads, predict_s=PREDICT_S) for number in range(1, 7)
            ]
            with_code = [
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=factor_model(),
                    code_paths=[str(ship(folder / f"factor {factor}", int(factor)))],
                    pip_requirements=[],
                ).model_id
                for factor in FACTORS.values()
            ]
            monkeypatch.setenv(LOGGING, "1")  # the model is loaded once while it is logged
            hostile, deadly = (
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=model,
                    signature=ModelSignature(Schema([ColSpec("double", "x")])),
                    pip_requirements=[],
                ).model_id
                for model in (hostile_model(), deadly_model())
            )
            monkeypatch.delenv(LOGGING)
            mlflow.set_tracking_uri(before)
        *good, broken = models
        server.damage(broken)
        faulty.register(NAME, *good)
        faulty.register(DIVIDED, *good[:2], broken)
        faulty.register(CLASHING, *with_code)
        faulty.register(HOSTILE, hostile)
        faulty.register(DEADLY, deadly)
        both = [(name, alias, version) for name in (DIVIDED, CLASHING) for version, alias in enumerate(FACTORS, 1)]
        for name, alias, version in [(NAME, "champion", 1), *both]:
            faulty.mlflow.set_registered_model_alias(name, alias, str(version))
        faulty.platform.start()
        yield faulty
    finally:
        if faulty.platform.running:
            faulty.platform.stop()
        server.kill()


@dataclass
class Killed:
    """Result of a kill during a promote.

    Attributes:
        failed: requests that failed.
        in_flight: requests that were under way when the process died, or sent before it was dead.
        slow: requests that took longer than three seconds.
    """

    failed: list[Outcome]
    in_flight: list[Outcome]
    slow: list[Outcome]


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
) -> Killed:
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
    in_flight = [outcome for outcome in load.outcomes if outcome.sent <= dead and outcome.done >= killed]
    slowest = max(outcome.done - outcome.sent for outcome in load.outcomes)
    lines = (
        f"the promote: {first or 'done'}, {answered - killed:.1f} s after the kill; {again} more failed",
        f"the alias was {'moved' if committed else 'not moved'} by then; it answers after {since - killed:.1f} s",
        f"all replicas are back and warm after {whole - killed:.1f} s",
        f"of {len(load.outcomes)} requests {len(in_flight)} were under way, the slowest took {slowest:.2f} s",
        f"failed: {dict(told(load.failed)) or 'none'}",
    )
    print("", *lines, sep="\n  ")  # noqa: T201 - shown by `pytest -s`
    report(Fault(what, len(load.outcomes), len(load.failed), slowest, whole - killed))
    assert faulty.mlflow.get_registered_model(NAME).aliases["champion"] == version
    assert {outcome.version for outcome in load.outcomes if outcome.version} == {before, version}
    for outcome in load.outcomes:
        if outcome.said is not None:
            assert outcome.said == Said(outcome.version or "", unwarmed=False, awaited=False), outcome
    slow = [outcome for outcome in load.outcomes if outcome.done - outcome.sent > SLOW_S]
    return Killed(load.failed, in_flight, slow)


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
    killed = await promote_and_kill(faulty, "2", killing(faulty, "ModelPool"), what="a pool replica")
    assert killed.failed == []
    assert killed.slow == []


async def test_killing_a_gateway_in_a_promote_costs_only_its_requests(faulty: Faulty) -> None:
    killed = await promote_and_kill(faulty, "3", killing(faulty, "Gateway"), what="a gateway replica")
    assert all(outcome in killed.in_flight for outcome in killed.failed)


async def test_killing_releases_in_a_promote_costs_no_request(faulty: Faulty) -> None:
    assert (await promote_and_kill(faulty, "4", killing(faulty, "Releases"), what="Releases")).failed == []


async def test_killing_the_registry_in_a_promote_costs_no_request(faulty: Faulty) -> None:
    killed = await promote_and_kill(faulty, "5", faulty.server.kill, faulty.server.start, what="the registry")
    assert killed.failed == []


def ask_hostile(x: float) -> httpx.Response:
    body = {"instances": [{"x": x}]}
    return httpx.post(f"{URL}/v1/models/{HOSTILE}:predict", json=body, headers=PATIENCE, timeout=330)


async def test_a_request_that_kills_its_replica_kills_one(faulty: Faulty) -> None:
    faulty.wait_until_whole()
    until(lambda: ask_hostile(100.0).status_code == 200)
    before = faulty.platform.replicas("ModelPool")
    async with SteadyLoad([NAME], PER_S) as load:
        await asyncio.sleep(3)
        began = time.monotonic()
        guilty = await asyncio.to_thread(ask_hostile, float(DEEDS.index("os._exit")))
        alive = [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        await asyncio.sleep(1)
        await asyncio.to_thread(faulty.wait_until_whole)
        whole = time.monotonic()
    assert (guilty.status_code, guilty.json()["code"]) in ((503, "replica_died"), (503, "model_unavailable"))
    assert len(alive) == len(before) - 1
    assert told(load.failed) == {}
    slowest = max(outcome.done - outcome.sent for outcome in load.outcomes)
    report(Fault("a model that ends its process", len(load.outcomes), 0, slowest, whole - began))
    faulty.mlflow.set_registered_model_tag(HOSTILE, "serving.isolation", "process")
    until(lambda: ask_hostile(100.0).status_code == 200)


async def test_a_version_that_dies_of_its_load_kills_one_replica(faulty: Faulty) -> None:
    faulty.wait_until_whole()
    before = faulty.platform.replicas("ModelPool")

    def has_failed() -> bool:
        found = httpx.get(f"{URL}/v1/models/{DEADLY}", timeout=WITHIN_S).json()
        versions = found["model"]["versions"] if "model" in found else {}
        return "its process died during the load, twice" in str(versions.get("1", {}).get("error"))

    async with SteadyLoad([NAME], PER_S) as load:
        began = time.monotonic()
        faulty.mlflow.set_registered_model_alias(DEADLY, "champion", "1")
        await asyncio.to_thread(until, has_failed)
        await asyncio.to_thread(faulty.wait_until_whole)
        whole = time.monotonic()
    alive = [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert len(alive) >= len(before) - 1
    assert told(load.failed) == {}
    slowest = max(outcome.done - outcome.sent for outcome in load.outcomes)
    report(Fault("a model that ends its process at load", len(load.outcomes), 0, slowest, whole - began))
    faulty.mlflow.delete_registered_model(DEADLY)


def answered_by() -> dict[str, str]:
    """Return per session the version that answers its calls of the bare name."""
    with httpx.Client(base_url=URL, timeout=WITHIN_S) as http, ThreadPoolExecutor(8) as threads:

        def ask(session: str) -> str:
            body = {"instances": [{"x": 0.0, "sent": time.time()}]}
            response = http.post(f"/v1/models/{DIVIDED}:predict", json=body, headers={"x-session-id": session})
            assert response.status_code == 200, response.text
            version: str = response.headers["x-model-version"]
            said = numbered.decode(response.json()["predictions"][0], 0.0)
            assert said == numbered.Said(version, unwarmed=False, awaited=False)
            return version

        return dict(zip(SESSIONS, threads.map(ask, SESSIONS), strict=True))


def factors() -> dict[str, float]:
    """Return what the versions with packages of their own answer to 1, by alias."""
    found = {}
    for alias in FACTORS:
        url = f"{URL}/v1/models/{CLASHING}@{alias}:predict"
        response = httpx.post(url, json={"instances": [{"x": 1.0}]}, headers=PATIENCE, timeout=330)
        assert response.status_code == 200, response.text
        found[alias] = response.json()["predictions"][0]
    return found


def part(name: str) -> dict[str, Any]:
    """Return one part of `/health`; empty where it does not answer in time."""
    found: dict[str, Any] = httpx.get(f"{URL}/health", timeout=WITHIN_S).json()["parts"].get(name, {})
    return found


def test_a_restart_of_everything_without_a_registry_serves_on(faulty: Faulty) -> None:
    """One alias names a version that cannot be loaded, and another one answers."""
    shares = {"champion": 50, "challenger": 50}
    httpx.put(f"{URL}/v1/models/{DIVIDED}/traffic", json=shares, timeout=WITHIN_S).raise_for_status()
    faulty.mlflow.set_registered_model_alias(DIVIDED, "champion", "3")
    until(lambda: any(text.startswith(f"{DIVIDED}@champion stays") for text in part("models").get("blocked", ())))
    before = {session: SPLIT.choose(DIVIDED, session) for session in SESSIONS}
    assert set(before.values()) == {"1", "2"}
    until(lambda: answered_by() == before)  # on every replica
    assert factors() == FACTORS

    faulty.server.kill()
    faulty.platform.kill()
    started = time.monotonic()
    faulty.platform.start()
    ready_s = time.monotonic() - started
    assert answered_by() == before
    assert factors() == FACTORS
    assert part("registry")["status"] == "unavailable"
    assert part("registry")["stale_since"]
    model = httpx.get(f"{URL}/v1/models/{DIVIDED}", timeout=WITHIN_S).json()["model"]
    assert (model["aliases"], model["traffic"]) == ({"champion": "1", "challenger": "2"}, shares)
    assert httpx.post(f"{URL}/v1/models/{DIVIDED}:rollback", timeout=WITHIN_S).status_code == 503

    faulty.server.start()
    back_s = until(lambda: part("registry") == {"status": "ok"})
    assert answered_by() == before
    httpx.post(f"{URL}/v1/models/{DIVIDED}:rollback", timeout=WITHIN_S).raise_for_status()
    assert faulty.mlflow.get_registered_model(DIVIDED).aliases["champion"] == "1"
    assert answered_by() == before
    print(  # noqa: T201 - shown by `pytest -s`
        f"\nready after {ready_s:.1f} s without the registry; it is read again {back_s:.1f} s after it is back"
    )


def test_sigterm_leaves_nothing(faulty: Faulty) -> None:
    faulty.platform.stop(signal.SIGTERM)
    assert remaining() == []
    assert "Traceback" not in faulty.platform.output()
