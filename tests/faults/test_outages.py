"""A registry that hangs and comes back all the time, and a full disk."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx
import pytest

from tests.faults.faulty import NAME, WITHIN_S, Faulty, until
from tests.faults.rehearsal import rehearse
from tests.missing import missing
from tests.platform import URL

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

MODEL = f"{URL}/v1/models/{NAME}"
FLAPS = 6
FLAP_S = 3.0
HANG_S = 30.0


def promote(version: str) -> httpx.Response:
    return httpx.post(f"{MODEL}:promote", json={"version": version}, timeout=WITHIN_S)


def champion() -> str:
    found: str = httpx.get(MODEL, timeout=WITHIN_S).json()["model"]["aliases"]["champion"]
    return found


def other_version() -> str:
    return "2" if champion() == "1" else "1"


async def test_a_registry_that_hangs_now_and_then_costs_no_request(faulty: Faulty) -> None:
    def flap() -> None:
        for _ in range(FLAPS):
            faulty.server.freeze()
            time.sleep(FLAP_S)
            faulty.server.thaw()
            time.sleep(FLAP_S)

    assert (await rehearse(faulty, "a registry that flaps", flap)).failed == []
    await asyncio.to_thread(until, lambda: registry() == {"status": "ok"})


async def test_a_registry_that_hangs_refuses_only_releases(faulty: Faulty) -> None:
    version = other_version()
    refused: list[httpx.Response] = []

    def hang() -> None:
        faulty.server.freeze()
        try:
            until(lambda: registry()["status"] == "unavailable")
            began = time.monotonic()
            refused.append(promote(version))
            time.sleep(max(HANG_S - (time.monotonic() - began), 0))
        finally:
            faulty.server.thaw()

    assert (await rehearse(faulty, "a registry that hangs", hang)).failed == []
    assert (refused[0].status_code, refused[0].json()["code"]) == (503, "registry_unavailable")
    until(lambda: registry() == {"status": "ok"})
    until(lambda: promote(version).status_code == 200)
    assert champion() == version


async def test_a_full_disk_stops_releases_only(faulty: Faulty) -> None:
    if not faulty.has_own_disk:
        missing("only root may mount the small disk that this test fills")
    filler = faulty.platform.home / "filler"
    version = "6"  # which nothing has loaded yet
    refused: list[httpx.Response] = []

    def fill() -> None:
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(2**20))
                file.flush()
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"0")
        refused.append(promote(version))
        filler.unlink()

    seen = await rehearse(faulty, "a full disk", fill)
    assert seen.failed == []
    assert refused[0].status_code == 503, refused[0].text
    assert "the disk of the artifact cache is full" in refused[0].text
    until(lambda: promote(version).status_code == 200)


def registry() -> dict[str, str]:
    found: dict[str, str] = httpx.get(f"{URL}/health", timeout=WITHIN_S).json()["parts"]["registry"]
    return found
