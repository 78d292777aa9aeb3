"""Load, unload, promote, rollback and traffic over ``/v1``, against the real application over fakes."""

from __future__ import annotations

import gc
from typing import Any

import httpx
import pytest

from tests.connect import Connect
from tests.fakes import Fakes, make_fakes, total

ROW = {"oil": 75.5, "gas": 3.2}
MODELS = {
    "prices": total("oil", "gas"),
    "prices/versions/2": total("oil", "gas", offset=1.0),
    "prices/versions/3": total("oil", "coal"),
}
PATH = "/v1/models/prices"


@pytest.fixture
def fakes() -> Fakes:
    return make_fakes(MODELS, aliases={"prices": {"champion": "1", "challenger": "2"}})


@pytest.fixture
def client(connect: Connect, fakes: Fakes) -> httpx.AsyncClient:
    return connect(fakes)


async def test_a_version_is_loaded_and_unloaded(client: httpx.AsyncClient) -> None:
    loaded = await client.post(f"{PATH}/versions/2:load")
    assert loaded.json() == {"model_name": "prices", "model_version": "2", "state": "ready"}
    unloaded = await client.post(f"{PATH}@challenger:unload")
    assert unloaded.json() == {"model_name": "prices", "model_version": "2", "state": "unloaded"}


async def test_promote_moves_the_default_alias_and_is_idempotent(client: httpx.AsyncClient) -> None:
    expected = {
        "model_name": "prices",
        "model_version": "2",
        "alias": "champion",
        "previous_version": "1",
        "changed": True,
        "default_version": "2",
        "state": "ready",
    }
    first = await client.post(f"{PATH}:promote", json={"version": "2"})
    assert (first.status_code, first.json()) == (200, expected)
    answer = await client.post(f"{PATH}:predict", json={"instances": [ROW]})
    assert (answer.json()["predictions"], answer.headers["x-model-version"]) == ([79.7], "2")
    again = await client.post(f"{PATH}:promote", json={"version": 2})
    assert again.json() == {**expected, "changed": False}


async def test_promoting_another_alias_keeps_the_default(client: httpx.AsyncClient) -> None:
    answer = (await client.post(f"{PATH}:promote", json={"version": "1", "alias": "challenger"})).json()
    assert (answer["alias"], answer["model_version"], answer["previous_version"]) == ("challenger", "1", "2")
    assert answer["default_version"] == "1"


async def test_promote_takes_the_version_of_another_alias(client: httpx.AsyncClient, fakes: Fakes) -> None:
    answer = (await client.post(f"{PATH}:promote", json={"from": "challenger"})).json()
    assert (answer["model_version"], answer["alias"]) == ("2", "champion")
    fakes.manager.desired["prices"] = {"champion": "2", "challenger": "3"}
    unclear = await client.post(f"{PATH}:promote", json={"from": "challenger"})
    assert (unclear.status_code, unclear.json()["code"]) == (409, "conflict")
    assert unclear.json()["details"] == {"model": "prices", "alias": "challenger", "version": "3", "answering": "2"}


async def test_an_incompatible_version_needs_force(client: httpx.AsyncClient) -> None:
    refused = await client.post(f"{PATH}:promote", json={"version": "3"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert refused.json()["details"]["differences"] == [
        "column 'gas' (double) was removed, so calls that still send it fail",
        "column 'coal' (double) is new and required",
    ]
    assert (await client.get(PATH)).json()["model"]["aliases"]["champion"] == "1"
    forced = await client.post(f"{PATH}:promote", json={"version": "3", "force": True})
    assert (forced.status_code, forced.json()["default_version"]) == (200, "3")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("prices", {}, 400, "give either 'version', or 'from'"),
        ("prices", {"version": "2", "from": "challenger"}, 400, "give either"),
        ("prices", {"version": "latest"}, 400, "not a model version"),
        ("prices", {"version": True}, 400, "'version"),
        ("prices", {"version": "2", "source": "challenger"}, 400, "'source': is not a key"),
        ("prices", {"version": "2", "alias": "a b"}, 400, "not an alias"),
        ("prices", {"version": "2", "force": "yes"}, 400, "'force'"),
        ("prices", [], 400, "must be a JSON object"),
        ("prices", {"version": 7}, 404, "prices"),
        ("prices", {"from": "nobody"}, 404, "no alias 'nobody'"),
        ("prices@champion", {"version": 1}, 400, "not a bare model name"),
        ("prices/versions/1", {"version": 1}, 400, "not a bare model name"),
        ("nope", {"version": 1}, 404, "nope"),
        ("nope", {"from": "champion"}, 404, "nope"),
    ],
)
async def test_an_invalid_promotion_is_refused(
    client: httpx.AsyncClient, path: str, body: Any, status: int, words: str
) -> None:
    answer = await client.post(f"/v1/models/{path}:promote", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert (await client.get(PATH)).json()["model"]["default"] == "1"


async def test_the_error_lists_the_allowed_keys(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PATH}:promote", json={"versoin": "2"})
    assert answer.json()["details"]["allowed"] == ["version", "from", "alias", "force"]


@pytest.mark.parametrize("sent", [{}, {"json": {}}, {"json": {"alias": "champion"}}, {"content": b" "}])
async def test_rollback_goes_one_step_back_and_no_further(client: httpx.AsyncClient, sent: dict[str, Any]) -> None:
    await client.post(f"{PATH}:promote", json={"version": "2"})
    back = await client.post(f"{PATH}:rollback", **sent)
    assert (back.status_code, back.json()) == (
        200,
        {
            "model_name": "prices",
            "model_version": "1",
            "alias": "champion",
            "previous_version": "2",
            "changed": True,
            "default_version": "1",
            "state": "ready",
        },
    )
    again = (await client.post(f"{PATH}:rollback", **sent)).json()
    assert (again["model_version"], again["changed"]) == ("1", False)


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        ("prices", {}, 409, "nothing is known"),
        ("prices", {"json": {"alias": "nobody"}}, 404, "no alias 'nobody'"),
        ("prices", {"json": {"alias": "a b"}}, 400, "not an alias"),
        ("prices", {"json": {"version": "1"}}, 400, "'version': is not a key"),
        ("prices", {"content": b"{"}, 400, "JSON"),
        ("prices@champion", {}, 400, "not a bare model name"),
        ("nope", {}, 404, "nope"),
    ],
)
async def test_an_invalid_rollback_is_refused(
    client: httpx.AsyncClient, path: str, sent: dict[str, Any], status: int, words: str
) -> None:
    answer = await client.post(f"/v1/models/{path}:rollback", **sent)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


async def test_traffic_is_split_and_shadowed_until_it_is_removed(client: httpx.AsyncClient) -> None:
    divided = {
        "model_name": "prices",
        "traffic": {"champion": 90.0, "challenger": 10.0},
        "shadow": "challenger",
        "versions": {"champion": "1", "challenger": "2"},
        "problems": [],
    }
    body = {"champion": 90, "challenger": 10, "shadow": "challenger"}
    for _ in range(2):
        answer = await client.put(f"{PATH}/traffic", json=body)
        assert (answer.status_code, answer.json()) == (200, divided)
    assert (await client.get(f"{PATH}/traffic")).json() == divided
    model = (await client.get(PATH)).json()["model"]
    assert (model["traffic"], model["shadow"]) == (divided["traffic"], "challenger")
    whole: dict[str, Any] = {"model_name": "prices", "traffic": {}, "shadow": None, "versions": {}, "problems": []}
    assert (await client.put(f"{PATH}/traffic", json={})).json() == whole
    assert (await client.get(f"{PATH}/traffic")).json() == whole


async def test_a_shadow_alone_splits_no_traffic(client: httpx.AsyncClient) -> None:
    answer = (await client.put(f"{PATH}/traffic", json={"shadow": "challenger"})).json()
    assert (answer["traffic"], answer["shadow"], answer["versions"]) == ({}, "challenger", {"challenger": "2"})


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("prices", {"champion": 90, "challenger": 20}, 400, "sum up to 110"),
        ("prices", {"champion": 90}, 400, "sum up to 90"),
        ("prices", {"champion": "90", "challenger": 10}, 400, "weight of alias 'champion'"),
        ("prices", {"champion": None, "challenger": 100}, 400, "weight of alias 'champion'"),
        ("prices", {"champion": 110, "challenger": -10}, 400, "weight of alias"),
        ("prices", {"a b": 100}, 400, "not an alias"),
        ("prices", {"champion": 100, "shadow": 10}, 400, "'shadow': must be an alias or null"),
        ("prices", {"champion": 100, "shadow": "a b"}, 400, "not an alias"),
        ("prices", [90, 10], 400, "must be a JSON object"),
        ("prices", {"champion": 90, "nobody": 10}, 404, "no alias 'nobody'"),
        ("prices", {"shadow": "nobody"}, 404, "no alias 'nobody'"),
        ("prices@champion", {"champion": 100}, 400, "not a bare model name"),
        ("nope", {"champion": 100}, 404, "nope"),
    ],
)
async def test_invalid_traffic_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, fakes: Fakes, path: str, body: Any, status: int, words: str
) -> None:
    answer = await client.put(f"/v1/models/{path}/traffic", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert fakes.manager.plans == {}


async def test_the_details_have_a_wrong_sum_of_weights(client: httpx.AsyncClient) -> None:
    answer = await client.put(f"{PATH}/traffic", json={"champion": 90, "challenger": 9.5})
    assert answer.json()["details"] == {"sum": 99.5}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{PATH}:promote", {"version": "2"}),
        ("POST", f"{PATH}:rollback", {}),
        ("PUT", f"{PATH}/traffic", {"champion": 100}),
    ],
)
async def test_a_read_only_registry_is_a_409(
    client: httpx.AsyncClient, fakes: Fakes, method: str, path: str, body: Any
) -> None:
    fakes.manager.read_only = True
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "registry_read_only")
    assert (await client.post(f"{PATH}/versions/2:load")).status_code == 200


async def test_a_model_shows_live_and_blocked_versions(client: httpx.AsyncClient, fakes: Fakes) -> None:
    await client.post(f"{PATH}:promote", json={"version": "2"})
    fakes.manager.desired["prices"] = {"champion": "3", "challenger": "2"}
    fakes.manager.blocked["prices"] = {"champion": "version 3 takes other inputs than version 2"}
    model = (await client.get(PATH)).json()["model"]
    assert model["blocked"] == {"champion": "version 3 takes other inputs than version 2"}
    champion = model["live"]["champion"]
    assert (champion["version"], champion["previous"], champion["why"]) == ("2", "1", "it was promoted")


async def test_a_wrong_deadline_starts_no_operation(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil")}))
    for path in ("/v1/models/prices:load", "/v1/models/prices:unload", "/v2/repository/models/prices/load"):
        answer = await client.post(path, headers={"x-request-timeout-seconds": "soon"})
        assert (answer.status_code, "positive number" in answer.json()["error"]) == (400, True)
    gc.collect()  # an operation that was begun and not awaited is a warning, and so an error
