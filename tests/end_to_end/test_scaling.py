"""Replicas come and go with the load, and models live in the gateway: the application once more, with own settings."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.second_application import NAME
from tests.platform import ROOT, URL, Platform
from tests.registered import registry, registry_uri, tracking

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

SECOND = f"{URL}/{NAME}"
SLOW = {"model_name": "slow", "data": {"x": 1}}
PATIENCE_S = 180.0
SETTINGS = {
    "ML_SERVE_REGISTRY_POLL_S": "1",
    "ML_SERVE_PRELOAD": "slow",
    "ML_SERVE_GATEWAY__TARGET_ONGOING_REQUESTS": "4",
    "ML_SERVE_POOLS__INSIDE__PLACEMENT": "gateway",
    "ML_SERVE_POOLS__RARE__MIN_REPLICAS": "0",
    "ML_SERVE_POOLS__RARE__DOWNSCALE_TO_ZERO_DELAY_S": "2",
    "ML_SERVE_POOLS__RARE__LOOK_BACK_S": "2",
    **{
        f"ML_SERVE_{part}__{name}": value
        for part in ("GATEWAY", "POOLS__DEFAULT")
        for name, value in {
            "MAX_REPLICAS": "2",
            "UPSCALE_DELAY_S": "0",
            "DOWNSCALE_DELAY_S": "2",
            "LOOK_BACK_S": "2",
            "NUM_CPUS": "0.1",
        }.items()
    },
}


@pytest.fixture(scope="module")
def second(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    mlflow = registry(platform.home)
    with tracking(platform.home):
        for name, pool in {"rarely": "rare", "inside": "inside"}.items():
            mlflow.create_registered_model(name, tags={"serving.pool": pool})
            mlflow.create_model_version(name, mlflow.get_model_version("moving", "1").source)
            mlflow.set_registered_model_alias(name, "champion", "1")
    folder = tmp_path_factory.mktemp("second")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    # In a home of its own it has no feature store, so one process less starts.
    environment |= {"ML_SERVE_HOME": str(folder), "MLFLOW_TRACKING_URI": registry_uri(platform.home), **SETTINGS}
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.second_application"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert program.stdin is not None
    assert program.stdout is not None
    assert any(line == b"deployed\n" for line in program.stdout), (folder / "log").read_text()
    until(lambda: httpx.get(f"{SECOND}/readyz", timeout=60).status_code == 200)  # the load balancer follows a bit later
    yield
    program.stdin.close()
    program.wait(PATIENCE_S)
    for name in ("rarely", "inside"):
        mlflow.delete_registered_model(name)


def serve(**body: Any) -> Any:
    """The answer of the second application; its other routes are found at the root alone."""
    headers = {"x-request-timeout-seconds": "150"}  # a call may wait for the start of a replica
    return httpx.post(f"{SECOND}/serve", json=body, headers=headers, timeout=160).json()


def replicas() -> Counter[str]:
    """Running replicas of the second application, by deployment; those that drain count."""
    title = f"ray::ServeReplica:{NAME}:"
    lines = ((process.info["cmdline"] or [""])[0] for process in psutil.process_iter(["cmdline"]))
    return Counter(line.removeprefix(title).partition(".")[0] for line in lines if line.startswith(title))


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"{what()} {replicas()}"
        time.sleep(0.2)


def test_gateway_and_pool_scale_up_under_load_and_down_after_it(second: None) -> None:
    assert serve(**SLOW)["status"] == "success"

    async def load() -> list[int]:
        statuses: list[int] = []
        enough = asyncio.Event()

        async def caller(client: httpx.AsyncClient) -> None:
            while not enough.is_set():
                statuses.append((await client.post(f"{SECOND}/serve", json=SLOW)).status_code)

        async with httpx.AsyncClient(timeout=60) as client:
            callers = [asyncio.create_task(caller(client)) for _ in range(16)]
            await asyncio.to_thread(until, lambda: min(replicas()["Gateway"], replicas()["ModelPool-default"]) == 2)
            enough.set()
            await asyncio.gather(*callers)
        return statuses

    async def trickle() -> list[int]:
        """Call while replicas drain."""
        statuses: list[int] = []
        async with httpx.AsyncClient(timeout=60) as client:
            is_small = asyncio.create_task(
                asyncio.to_thread(until, lambda: replicas()["Gateway"] == replicas()["ModelPool-default"] == 1)
            )
            while not is_small.done():
                statuses.append((await client.post(f"{SECOND}/serve", json=SLOW)).status_code)
                await asyncio.sleep(0.3)
            await is_small
        return statuses

    assert set(asyncio.run(load())) == {200}
    assert set(asyncio.run(trickle())) == {200}
    assert serve(**SLOW)["status"] == "success"


def test_a_pool_at_zero_is_cold_wakes_by_a_call_and_sleeps_again(second: None) -> None:
    until(lambda: replicas()["ModelPool-rare"] == 0)
    for path in ("readyz", "health", "metrics"):  # none waits for the pool or wakes it
        assert httpx.get(f"{SECOND}/{path}", timeout=60).status_code == 200
    model = serve(model_name="rarely", action="status")["model"]
    assert (model["aliases"], model["versions"]["1"]["state"]) == ({"champion": "1"}, "cold")
    assert replicas()["ModelPool-rare"] == 0
    for number in (4.0, 5.0):
        assert serve(model_name="rarely", data={"x": number})["prediction"] == [2 * number]
        assert replicas()["ModelPool-rare"] == 1
        until(lambda: replicas()["ModelPool-rare"] == 0)
    assert serve(model_name="rarely", action="load")["status"] == "success"
    assert serve(model_name="rarely", action="status")["model"]["versions"]["1"]["state"] == "ready"


def test_models_of_a_pool_in_the_gateway_are_served_there(second: None) -> None:
    """The model doubles its input, and raises on 13."""

    async def post(number: float) -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(f"{SECOND}/serve", json={"model_name": "inside", "data": {"x": number}})

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(*(post(number) for number in range(20)))

    for number, answer in enumerate(asyncio.run(together())):
        if number == 13:
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_failed")
            assert "secret" not in answer.text
        else:
            assert answer.json()["prediction"] == [2 * number]

    def is_everywhere() -> bool:  # the burst may have started a second gateway, and each reports after it answers
        assert serve(model_name="inside", data={"x": 4})["prediction"] == [8]
        version = serve(model_name="inside", action="status")["model"]["versions"]["1"]
        return (version["state"], version["replicas"]) == ("ready", replicas()["Gateway"])

    until(is_everywhere)
    assert replicas()["ModelPool-inside"] == 0
    assert serve(model_name="inside", action="unload")["status"] == "success"
    until(lambda: serve(model_name="inside", action="status")["model"]["versions"]["1"]["state"] == "cold")
    assert serve(model_name="inside", data={"x": 4})["prediction"] == [8]
