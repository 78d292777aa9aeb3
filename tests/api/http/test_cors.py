"""Browsers' cross-origin requests: refused without the setting, answered with it."""

from __future__ import annotations

import httpx
import pytest

from app.api.http.cors import with_cors
from tests.fakes import make_fakes, total

PAGE = "https://app.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-session-id",
}
BODY = {"model_name": "prices", "data": {"oil": 75.5}}


def client_of(*origins: str) -> httpx.AsyncClient:
    app = with_cors(make_fakes({"prices": total("oil")}).app, origins)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize("origins", [(PAGE,), ("*",), ("https://other.example.com", PAGE)])
async def test_a_page_of_a_configured_origin_may_call(origins: tuple[str, ...]) -> None:
    async with client_of(*origins) as client:
        preflight = await client.options("/serve", headers=PREFLIGHT)
        answer = await client.post("/serve", json=BODY, headers={"origin": PAGE})
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-session-id" in preflight.headers["access-control-allow-headers"]
    assert answer.json()["prediction"] == [75.5]
    assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "x-model-version" in answer.headers["access-control-expose-headers"]


async def test_other_origins_get_no_permission() -> None:
    async with client_of("https://other.example.com") as client:
        assert (await client.options("/serve", headers=PREFLIGHT)).status_code == 400
        assert (
            "access-control-allow-origin"
            not in (await client.post("/serve", json=BODY, headers={"origin": PAGE})).headers
        )


async def test_without_the_setting_no_page_may_call() -> None:
    async with client_of() as client:
        assert (await client.options("/serve", headers=PREFLIGHT)).status_code == 405
        assert (
            "access-control-allow-origin"
            not in (await client.post("/serve", json=BODY, headers={"origin": PAGE})).headers
        )
