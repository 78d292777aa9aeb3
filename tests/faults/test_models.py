"""Models that harm their process: what the callers of other models see."""

from __future__ import annotations

import asyncio

import httpx
import psutil
import pytest

from tests.faults.faulty import DEADLY, HOSTILE, WITHIN_S, Faulty, ask_hostile, until
from tests.faults.rehearsal import rehearse
from tests.hostile_models import DEEDS
from tests.platform import URL

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


def do(deed: str) -> httpx.Response:
    return ask_hostile(float(DEEDS.index(deed)))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


async def test_a_model_that_uses_up_memory_gets_an_error(faulty: Faulty) -> None:
    until(lambda: ask_hostile(100.0).status_code == 200)
    before = faulty.platform.replicas("ModelPool")
    guilty: list[httpx.Response] = []
    seen = await rehearse(faulty, "a model that uses up memory", lambda: guilty.append(do("use up memory")))
    assert (guilty[0].status_code, guilty[0].json()["code"]) == (500, "model_failed")
    assert "MemoryError" in guilty[0].json()["error"]
    assert alive(before) == before
    assert seen.failed == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("deed", "what"),
    [
        ("answer too much", "an answer of 100 MB"),
        ("sys.exit", "sys.exit in a model"),
        ("raise CancelledError", "CancelledError in a model"),
    ],
)
async def test_a_model_that_fails_oddly_costs_others_nothing(faulty: Faulty, deed: str, what: str) -> None:
    until(lambda: ask_hostile(100.0).status_code == 200)
    guilty: list[httpx.Response] = []
    seen = await rehearse(faulty, what, lambda: guilty.append(do(deed)))
    assert guilty[0].status_code == 500
    assert seen.failed == []


async def test_a_request_that_kills_its_replica_kills_one(faulty: Faulty) -> None:
    until(lambda: ask_hostile(100.0).status_code == 200)
    faulty.wait_until_whole()
    before = faulty.platform.replicas("ModelPool")
    guilty: list[httpx.Response] = []
    seen = await rehearse(faulty, "a model that ends its process", lambda: guilty.append(do("os._exit")))
    assert (guilty[0].status_code, guilty[0].json()["code"]) in ((503, "replica_died"), (503, "model_unavailable"))
    assert len(alive(before)) == len(before) - 1
    assert seen.failed == []


@pytest.mark.faults
async def test_calls_that_hang_cost_others_nothing(faulty: Faulty) -> None:
    until(lambda: ask_hostile(100.0).status_code == 200)

    def hang() -> None:
        body = {"instances": [{"x": float(DEEDS.index("hang"))}]}
        for _ in range(4):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{URL}/v1/models/{HOSTILE}:predict", json=body, timeout=3)
        until(lambda: ask_hostile(100.0).status_code == 200)

    assert (await rehearse(faulty, "four calls that hang", hang)).failed == []


async def test_a_version_that_dies_of_its_load_kills_one_replica(faulty: Faulty) -> None:
    faulty.wait_until_whole()
    before = faulty.platform.replicas("ModelPool")

    def has_failed() -> bool:
        found = httpx.get(f"{URL}/v1/models/{DEADLY}", timeout=WITHIN_S).json()
        versions = found["model"]["versions"] if "model" in found else {}
        return "its process died during the load, twice" in str(versions.get("1", {}).get("error"))

    def load() -> None:
        faulty.mlflow.set_registered_model_alias(DEADLY, "champion", "1")
        until(has_failed)

    seen = await rehearse(faulty, "a model that ends its process at load", load)
    assert len(alive(before)) >= len(before) - 1
    assert seen.failed == []
    await asyncio.to_thread(faulty.mlflow.delete_registered_model, DEADLY)
