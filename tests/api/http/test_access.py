"""Who may call which endpoint, against the real application over fakes and a real key file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.access.keys import KeyFile, create_key, revoke_key
from app.api.http.access import Access, TrustedProxy
from app.serving.callers import SCOPES
from app.serving.references import ModelRef
from app.settings import ScopeName
from tests.connect import Connect
from tests.fakes import Fakes, make_fakes, total

SECRET = "the secret of the proxy in front"
MODELS = {"prices": total("oil"), "prices/versions/2": total("oil", offset=1.0), "hidden": total("oil")}
PREDICT = {"model_name": "prices", "data": {"oil": 1.0}}
LOAD = {"model_name": "prices", "action": "load"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_key(tmp_path / "keys.json", "first", ["predict"])
    return tmp_path / "keys.json"


@pytest.fixture
def fakes(keys: Path) -> Fakes:
    fakes = make_fakes(MODELS, aliases={"prices": {"champion": "1", "challenger": "2"}})
    fakes.access = Access(KeyFile(keys), TrustedProxy(SECRET.encode(), frozenset({"predict"})))
    return fakes


@pytest.fixture
def client(connect: Connect, fakes: Fakes) -> httpx.AsyncClient:
    return connect(fakes)


def bearer(fakes: Fakes, keys: Path, *scopes: ScopeName, models: tuple[str, ...] = ("*",)) -> dict[str, str]:
    """The header of a new key."""
    _, key = create_key(keys, "tester", scopes, models)
    file = fakes.access._authenticator
    assert isinstance(file, KeyFile)
    file.reload()
    return {"authorization": f"Bearer {key}"}


def operations(fakes: Fakes) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Method, path for the model `prices`, and description of every documented operation."""
    filled = {"{ref}": "prices", "{name}": "prices", "{source}": "daily"}
    found = []
    for template, methods in fakes.app.openapi()["paths"].items():
        path = template
        for parameter, value in filled.items():
            path = path.replace(parameter, value)
        found += [(method.upper(), path, described) for method, described in methods.items()]
    return found


async def test_each_endpoint_but_probes_needs_credentials(client: httpx.AsyncClient, fakes: Fakes) -> None:
    opened = set()
    for method, path, described in operations(fakes):
        answer = await client.request(method, path)
        if described["security"] == []:
            opened.add(path)
            assert answer.status_code in (200, 503), path
        else:
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            assert "401" in described["responses"], path
            assert "unauthenticated" in answer.text.lower(), path
    assert opened == {
        "/health", "/livez", "/readyz", "/ping", "/version", "/v2", "/v2/health/live", "/v2/health/ready"
    }  # fmt: skip
    assert (await client.post("/", json=PREDICT)).status_code == 401


async def test_each_endpoint_of_a_model_checks_its_name(client: httpx.AsyncClient, fakes: Fakes, keys: Path) -> None:
    headers = bearer(fakes, keys, "predict", "manage", "observe", models=("other", "hid*"))
    checked = 0
    for method, path, _ in operations(fakes):
        if "/prices" in path:
            query = "?base=1&other=2" if path.endswith("/compare") else ""
            body = {"version": "2"} if method in ("POST", "PUT") else None
            answer = await client.request(method, path + query, headers=headers, json=body)
            assert (answer.status_code, "prices" in answer.text) == (403, True), (method, path, answer.text)
            checked += 1
    assert checked == 19
    for sent in (PREDICT, LOAD, {**LOAD, "action": "status"}):
        assert (await client.post("/serve", headers=headers, json=sent)).status_code == 403
    allowed = await client.post("/serve", headers=headers, json={**PREDICT, "model_name": "hidden"})
    assert allowed.json()["prediction"] == [1.0]


async def test_lists_show_the_models_of_the_caller(client: httpx.AsyncClient, fakes: Fakes, keys: Path) -> None:
    for name in ("prices", "hidden"):
        await fakes.manager.load(ModelRef(name))
    headers = bearer(fakes, keys, "predict", "observe", models=("hidden",))
    assert [one["name"] for one in (await client.get("/v1/models", headers=headers)).json()["models"]] == ["hidden"]
    assert (await client.get("/v2/models", headers=headers)).json() == {"models": ["hidden"]}
    index = (await client.post("/v2/repository/index", headers=headers)).json()
    assert {one["name"] for one in index} == {"hidden"}
    document = (await client.get("/openapi.json", headers=headers)).json()
    assert [tag["name"] for tag in document["tags"]] == ["hidden"]
    anonymous = (await client.get("/openapi.json")).json()
    assert (anonymous["tags"], anonymous["components"]["securitySchemes"]["bearer"]["scheme"]) == ([], "bearer")


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_scope_allows_only_its_calls(
    client: httpx.AsyncClient, fakes: Fakes, keys: Path, scope: ScopeName
) -> None:
    headers = bearer(fakes, keys, scope)
    needed: dict[tuple[str, str], set[str]] = {
        ("POST", "/serve"): {"predict"},
        ("POST", "/v1/models/prices:predict"): {"predict"},
        ("POST", "/invocations/prices"): {"predict"},
        ("POST", "/v2/models/prices/infer"): {"predict"},
        ("GET", "/v1/models"): {"predict", "manage", "observe"},
        ("GET", "/v1/models/prices"): {"predict", "manage", "observe"},
        ("GET", "/v2/models/prices"): {"predict", "manage", "observe"},
        ("GET", "/v1/status"): {"manage", "observe"},
        ("GET", "/metrics"): {"manage", "observe"},
        ("GET", "/v2/models/prices/stats"): {"manage", "observe"},
        ("POST", "/v2/repository/index"): {"manage", "observe"},
        ("POST", "/v1/models/prices:load"): {"manage"},
        ("POST", "/v1/models/prices:promote"): {"manage"},
        ("PUT", "/v1/models/prices/traffic"): {"manage"},
        ("POST", "/v2/repository/models/prices/unload"): {"manage"},
    }
    for (method, path), scopes in needed.items():
        answer = await client.request(method, path, headers=headers, json=PREDICT if path == "/serve" else None)
        assert (answer.status_code == 403) == (scope not in scopes), (path, answer.text)
    for action, scopes in {"load": {"manage"}, "unload": {"manage"}, "status": {"manage", "observe"}}.items():
        answer = await client.post("/serve", headers=headers, json={"model_name": "prices", "action": action})
        assert (answer.status_code == 403) == (scope not in scopes), action


async def test_a_key_comes_in_either_header(client: httpx.AsyncClient, fakes: Fakes, keys: Path) -> None:
    headers = bearer(fakes, keys, "predict")
    key = headers["authorization"].removeprefix("Bearer ")
    for sent in (headers, {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
        assert (await client.post("/serve", headers=sent, json=PREDICT)).status_code == 200
    for wrong in (
        {"authorization": f"Basic {key}"},
        {"authorization": key},
        {"x-api-key": key[:-1]},
        {b"x-api-key": b"\xe9"},
    ):
        answer = await client.post("/serve", headers=wrong, json=PREDICT)
        assert answer.status_code == 401, wrong
        assert key not in answer.text


async def test_a_revoked_key_is_refused(client: httpx.AsyncClient, fakes: Fakes, keys: Path) -> None:
    headers = bearer(fakes, keys, "predict")
    assert (await client.post("/serve", headers=headers, json=PREDICT)).status_code == 200
    revoke_key(keys, headers["authorization"].split("_")[1])
    bearer(fakes, keys, "predict")
    assert (await client.post("/serve", headers=headers, json=PREDICT)).status_code == 401


async def test_a_proxy_names_the_caller(client: httpx.AsyncClient, fakes: Fakes) -> None:
    consumer = {"x-ml-serve-proxy-secret": SECRET, "x-consumer-username": "desk"}
    assert (await client.post("/serve", headers=consumer, json=PREDICT)).status_code == 200
    refused = await client.post("/serve", headers={**consumer, "x-consumer-groups": "manage"}, json=LOAD)
    assert (refused.status_code, "'desk'" in refused.text) == (403, True)
    for wrong in (
        {**consumer, "x-ml-serve-proxy-secret": SECRET[:-1]},
        {**consumer, "x-anonymous-consumer": "true"},
        {"x-ml-serve-proxy-secret": SECRET},
        {"x-consumer-username": "desk"},
    ):
        assert (await client.post("/serve", headers=wrong, json=PREDICT)).status_code == 401, wrong


async def test_groups_are_scopes_where_a_setting_says_so(connect: Connect, fakes: Fakes) -> None:
    fakes.access = Access(proxy=TrustedProxy(SECRET.encode(), SCOPES, b"x-consumer-groups"))
    client = connect(fakes)
    consumer = {"x-ml-serve-proxy-secret": SECRET, "x-consumer-custom-id": "desk"}
    managing = {**consumer, "x-consumer-groups": "desks, manage"}
    assert (await client.post("/serve", headers=managing, json=LOAD)).status_code == 200
    assert (await client.post("/serve", headers=managing, json=PREDICT)).status_code == 403
    assert (await client.post("/serve", headers=consumer, json=PREDICT)).status_code == 403
    alone = await client.post("/serve", json=PREDICT)
    assert (alone.status_code, "proxy in front" in alone.text) == (401, True)


OWN = {"host": "gateway", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200),
        ({"host": "gateway"}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "gateway.evil.example"}, 403),
        ({**OWN, "origin": "http://gateway"}, 200),
        ({**OWN, "origin": "https://app.example"}, 200),
        ({**OWN, "origin": "https://api.example", "x-forwarded-host": "api.example"}, 200),
        ({**OWN, "origin": "http://evil.example"}, 403),
        ({**OWN, "origin": "null"}, 403),
        ({**OWN, "origin": ""}, 403),
        ({**OWN, "content-type": "text/plain"}, 415),
        ({**OWN, "content-type": "application/x-www-form-urlencoded"}, 415),
        ({**OWN, "content-type": "application/json; charset=utf-8"}, 200),
    ],
)
async def test_pages_of_other_origins_manage_nothing(
    connect: Connect, fakes: Fakes, headers: dict[str, str], status: int
) -> None:
    fakes.access = Access(hosts=["gate*y"], origins=["https://app.example"])
    client = connect(fakes)
    loaded = await client.post("/serve", headers=headers, json=LOAD) if "content-type" in headers else None
    assert loaded is None or loaded.status_code == status
    promoted = await client.post("/v1/models/prices:load", headers=headers)
    assert promoted.status_code == status, promoted.text
    predicted = await client.post("/serve", headers={**headers, "content-type": "text/plain"}, json=PREDICT)
    assert predicted.status_code == 200  # a page cannot read the answer


async def test_each_management_call_is_in_the_audit_log(
    client: httpx.AsyncClient, fakes: Fakes, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.api.http.audit")
    headers = {**bearer(fakes, keys, "predict", "manage"), "x-request-id": "r1", "x-forwarded-for": "10.0.0.7"}
    await client.post("/v1/models/prices:promote", headers=headers, json={"version": "2"})
    await client.post("/serve", headers=headers, json=LOAD)
    await client.post("/v1/models/prices:rollback", headers={"x-request-id": "r2"})
    await client.post("/v2/repository/models/none/load", headers=headers)
    await client.post("/serve", headers=headers, json=PREDICT)
    name = KeyFile(keys)._entries[headers["authorization"].split("_")[1]].caller.name
    lines = [record.getMessage() for record in caplog.records if record.name == "app.api.http.audit"]
    assert lines == [
        f"management call: action=v1_promote model=prices version=2 force=False caller={name} peer=127.0.0.1 "
        "forwarded_for=10.0.0.7 result=200 request_id=r1",
        f"management call: action=serve_load model=prices version=2 promote=False caller={name} peer=127.0.0.1 "
        "forwarded_for=10.0.0.7 result=200 request_id=r1",
        "management call: action=v1_rollback model=prices caller=anonymous peer=127.0.0.1 forwarded_for=- result=401 "
        "request_id=r2",
        f"management call: action=v2_load model=none caller={name} peer=127.0.0.1 forwarded_for=10.0.0.7 result=404 "
        "request_id=r1",
    ]
