import gzip
import re

import pytest

from tests.connect import Connect
from tests.fakes import make_fakes

ASSETS = ["swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png"]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_refers_to_itself_alone(connect: Connect, page: str) -> None:
    client = connect(make_fakes({}))
    answer = await client.get(page)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?:|//", answer.text.replace("<!DOCTYPE html>", ""))
    found = re.findall(r'(?:href|src|spec-url)="([^"]+)"|url: "([^"]+)"', answer.text)
    for target in {first or second for first, second in found}:
        # Relative to the page, so that it is right behind every prefix.
        assert not target.startswith("/")
        assert (await client.get(f"/{target}")).status_code == 200
    assert len(found) >= 3


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_is_the_same_whatever_its_headers_say(connect: Connect, page: str) -> None:
    client = connect(make_fakes({}))
    hostile = {"x-forwarded-prefix": '/"><script>alert(1)</script>', "host": "evil.example", "x-forwarded-host": "e"}
    plain = await client.get(page)
    assert (await client.get(page, headers=hostile)).content == plain.content
    assert (await client.get(page, headers={"x-forwarded-prefix": "/ml/serve"})).content == plain.content


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_may_load_nothing_from_elsewhere(connect: Connect, page: str) -> None:
    policy = (await connect(make_fakes({})).get(page)).headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "script-src 'self' 'sha256-" in policy


@pytest.mark.parametrize("name", ASSETS)
async def test_an_asset_is_compressed_and_kept(connect: Connect, name: str) -> None:
    client = connect(make_fakes({}))
    plain = await client.get(f"/docs/assets/{name}", headers={"accept-encoding": "identity"})
    assert plain.status_code == 200
    assert "max-age" in plain.headers["cache-control"]
    assert "content-encoding" not in plain.headers
    if len(plain.content) > 16 * 1024:
        async with client.stream("GET", f"/docs/assets/{name}", headers={"accept-encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert len(raw) < len(plain.content) / 2
        assert gzip.decompress(raw) == plain.content
    again = await client.get(f"/docs/assets/{name}", headers={"if-none-match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == plain.headers["etag"]
    assert "content-length" not in again.headers
    other = await client.get(f"/docs/assets/{name}", headers={"if-none-match": 'W/"other"'})
    assert other.status_code == 200


async def test_content_types(connect: Connect) -> None:
    client = connect(make_fakes({}))
    found = [(await client.get(f"/docs/assets/{name}")).headers["content-type"].partition(";")[0] for name in ASSETS]
    assert found == ["text/javascript", "text/css", "text/javascript", "image/png"]


async def test_redoc_has_no_picture_of_another_host(connect: Connect) -> None:
    assert "cdn.redoc.ly" not in (await connect(make_fakes({})).get("/docs/assets/redoc.standalone.js")).text


@pytest.mark.parametrize("name", ["", "other.js", "../docs", "%2e%2e/core.py", "a/b.js", "__init__.py"])
async def test_there_is_nothing_else_among_the_assets(connect: Connect, name: str) -> None:
    answer = await connect(make_fakes({})).get(f"/docs/assets/{name}")
    assert answer.status_code == 404 or answer.url.path == "/docs"


@pytest.mark.parametrize("path", ["/docs/", "/health/", "/v1/models/"])
async def test_nothing_is_redirected(connect: Connect, path: str) -> None:
    answer = await connect(make_fakes({})).get(path, follow_redirects=False)
    assert "location" not in answer.headers
    assert answer.status_code in (400, 404)


async def test_the_pages_are_not_in_the_schema(connect: Connect) -> None:
    paths = (await connect(make_fakes({})).get("/openapi.json")).json()["paths"]
    assert [path for path in paths if "docs" in path or path in ("/redoc", "/openapi.json")] == []
