from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware

from app.api.http.serve_middleware import HIDDEN_KEY, IMPORT_PATH, HideHeaders, middlewares, with_hidden_headers
from tests.fakes import make_fakes, total

BODY = {"model_name": "prices", "data": {"oil": 75.5, "gas": 3.2}}


async def test_serve_sees_no_header_but_the_id() -> None:
    seen: dict[str, Any] = {}

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    given = [
        (b"x-request-timeout-seconds", b"2"),
        (b"x-request-disconnect-disabled", b"?0"),
        (b"x-request-id", b"mine"),
    ]
    scope = {"type": "http", "headers": given}
    await HideHeaders(serve)(scope, None, None)  # type: ignore[arg-type]  # not called
    assert seen["headers"] == [(b"x-request-id", b"mine"), (b"x-request-disconnect-disabled", b"?1")]
    assert seen[HIDDEN_KEY] == given


@pytest.mark.parametrize("name", ["x-request-id", "x-session-id", "serve_multiplexed_model_id", "x-other"])
async def test_a_header_that_is_no_text_is_nobodys_fault(name: str) -> None:
    """Serve decodes the first three as UTF-8."""
    fakes = make_fakes({"prices": total("oil", "gas")})
    ids: list[str] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        for key, value in scope["headers"]:
            key.decode()
            value.decode()
            if key == b"x-request-id":
                ids.append(value.decode())
        await with_hidden_headers(fakes.app)(scope, receive, send)

    transport = httpx.ASGITransport(HideHeaders(serve))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.post("/serve", json=BODY, headers=[(name.encode(), b"caf\xe9")])
    assert answer.status_code == 200
    assert ids == [answer.json()["request_id"]]


async def test_a_request_without_an_id_gets_a_unique_one() -> None:
    seen: list[bytes] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")

    middleware = HideHeaders(serve)
    for headers in ([], [], [(b"x-request-id", b"mine")]):
        await middleware({"type": "http", "headers": headers}, None, None)  # type: ignore[arg-type]  # not called
    assert len({*seen}) == 3
    assert {len(name) for name in seen[:2]} == {32}
    assert seen[2] == b"mine"


@pytest.mark.parametrize(("seconds", "status"), [("0.05", 504), ("soon", 400), ("20", 200)])
async def test_the_gateway_keeps_the_caller_deadline(seconds: str, status: int) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 0.2
    transport = httpx.ASGITransport(HideHeaders(with_hidden_headers(fakes.app)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.post("/serve", json=BODY, headers={"x-request-timeout-seconds": seconds})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"


def test_the_import_path_names_the_middleware() -> None:
    module, name = IMPORT_PATH.split(":")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
    (middleware,) = middlewares()
    assert repr(middleware) == repr(Middleware(HideHeaders))
