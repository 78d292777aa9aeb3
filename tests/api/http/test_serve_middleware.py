import asyncio
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware

from app.api.http import serve_middleware
from app.api.http.serve_middleware import (
    HIDDEN_KEY,
    IMPORT_PATH,
    HideHeaders,
    Shortcut,
    middlewares,
    with_hidden_headers,
)
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
    scope = {"type": "http", "method": "GET", "headers": given}
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
        await middleware({"type": "http", "method": "GET", "headers": headers}, None, None)  # type: ignore[arg-type]  # not called
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


@pytest.fixture
def shortcut(monkeypatch: pytest.MonkeyPatch) -> Shortcut:
    """The shortcut of a process whose gateway has not opened it yet."""
    found = Shortcut()
    monkeypatch.setattr(serve_middleware, "SHORTCUT", found)
    return found


async def test_hot_requests_pass_serve_by(shortcut: Shortcut) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    served: list[str] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        await with_hidden_headers(fakes.app)(scope, receive, send)

    transport = httpx.ASGITransport(HideHeaders(serve))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        through = await client.post("/serve", json=BODY)
        shortcut.open(fakes.app.find)
        by = [
            await client.post("/serve", json=BODY),
            await client.post("/v1/models/prices:predict", json={"instances": [BODY["data"]]}),
            await client.post("/v1/models/missing:predict", json={"instances": []}),
        ]
        await client.post("/v1/models/prices:load")
        await client.get("/v1/models")
        await client.post("/nowhere")
    assert served == ["/serve", "/v1/models/prices:load", "/v1/models", "/nowhere"]
    assert [answer.status_code for answer in (through, *by)] == [200, 200, 200, 404]
    assert through.json()["prediction"] == by[0].json()["prediction"]
    assert by[0].json()["request_id"] == by[0].headers["x-request-id"]
    assert shortcut.ongoing == 0


def test_the_shortcut_is_closed_on_other_event_loops(shortcut: Shortcut) -> None:
    async def reached() -> bool:
        return await shortcut.answer({"path": "/serve"}, None, None)  # type: ignore[arg-type]

    async def answer(scope: Any, receive: Any, send: Any) -> None: ...

    async def opened() -> bool:
        shortcut.open(lambda _: answer)
        return await reached()

    assert asyncio.run(opened())
    assert not asyncio.run(reached())


async def test_requests_on_the_shortcut_are_counted(shortcut: Shortcut) -> None:
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        raise RuntimeError("on purpose")

    shortcut.open(lambda _: slow)
    middleware = HideHeaders(slow)
    scope = {"type": "http", "method": "POST", "path": "/serve", "headers": []}
    calls = [asyncio.ensure_future(middleware({**scope}, None, None)) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert shortcut.ongoing == 3
    calls.pop().cancel()
    go.set()
    await asyncio.wait(calls)
    assert shortcut.ongoing == 0


def test_the_import_path_names_the_middleware() -> None:
    module, name = IMPORT_PATH.split(":")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
    (middleware,) = middlewares()
    assert repr(middleware) == repr(Middleware(HideHeaders))
