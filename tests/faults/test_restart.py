"""The end of everything: a restart without the registry, and SIGTERM under load. These tests come last."""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.serving.releases.traffic import Traffic, Variant
from tests import numbered
from tests.faults.faulty import DIVIDED, FACTORS, NAME, PER_S, WITHIN_S, Faulty, factors, until
from tests.platform import URL, remaining
from tests.steady_load import SteadyLoad, told

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

SESSIONS = [str(number) for number in range(60)]
SPLIT = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))


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


async def test_sigterm_answers_what_was_sent_and_leaves_nothing(faulty: Faulty) -> None:
    async with SteadyLoad([NAME], PER_S) as load:
        await asyncio.sleep(2)
        began = time.monotonic()
        await asyncio.to_thread(faulty.platform.stop, signal.SIGTERM)
    print("\n  SIGTERM:", dict(told(load.failed)))  # noqa: T201 - shown by `pytest -s`
    assert not [outcome for outcome in load.failed if outcome.sent < began]
    assert not [outcome for outcome in load.failed if "AssertionError" in str(outcome.error)], "an answer that is none"
    assert remaining() == []
    assert "Traceback" not in faulty.platform.output()
