"""Load, unload, promote, rollback and traffic over ``/v1``, against the real application over fakes."""

from __future__ import annotations

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


async def test_a_version_is_loaded_and_let_go(client: httpx.AsyncClient) -> None:
    loaded = await client.post(f"{PATH}/versions/2:load")
    assert loaded.json() == {"model_name": "prices", "model_version": "2", "state": "ready"}
    unloaded = await client.post(f"{PATH}@challenger:unload")
    assert unloaded.json() == {"model_name": "prices", "model_version": "2", "state": "unloaded"}


async def test_a_promotion_moves_the_default_alias_and_twice_is_as_once(client: httpx.AsyncClient) -> None:
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


async def test_another_alias_is_moved_and_the_bare_name_is_not(client: httpx.AsyncClient) -> None:
    answer = (await client.post(f"{PATH}:promote", json={"version": "1", "alias": "challenger"})).json()
    assert (answer["alias"], answer["model_version"], answer["previous_version"]) == ("challenger", "1", "2")
    assert answer["default_version"] == "1"


async def test_a_version_may_be_given_as_another_alias(client: httpx.AsyncClient, fakes: Fakes) -> None:
    answer = (await client.post(f"{PATH}:promote", json={"from": "challenger"})).json()
    assert (answer["model_version"], answer["alias"]) == ("2", "champion")
    fakes.manager.desired["prices"] = {"champion": "2", "challenger": "3"}
    unclear = await client.post(f"{PATH}:promote", json={"from": "challenger"})
    assert (unclear.status_code, unclear.json()["code"]) == (409, "conflict")
    assert unclear.json()["details"] == {"model": "prices", "alias": "challenger", "version": "3", "answering": "2"}


async def test_other_inputs_are_refused_with_the_differences_unless_forced(client: httpx.AsyncClient) -> None:
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
        ("prices", {}, 400, "give 'version', or 'from'"),
        ("prices", {"version": "2", "from": "challenger"}, 400, "not both"),
        ("prices", {"version": "latest"}, 400, "not a model version"),
        ("prices", {"version": True}, 400, "'version"),
        ("prices", {"version": "2", "source": "challenger"}, 400, "'source': is not a key"),
        ("prices", {"version": "2", "alias": "a b"}, 400, "not an alias"),
        ("prices", {"version": "2", "force": "yes"}, 400, "'force'"),
        ("prices", [], 400, "must be a JSON object"),
        ("prices", {"version": 7}, 404, "prices"),
        ("prices", {"from": "nobody"}, 404, "no alias 'nobody'"),
        ("prices@champion", {"version": 1}, 400, "by its name"),
        ("prices/versions/1", {"version": 1}, 400, "by its name"),
        ("nope", {"version": 1}, 404, "nope"),
        ("nope", {"from": "champion"}, 404, "nope"),
    ],
)
async def test_a_promotion_that_cannot_be_is_refused(
    client: httpx.AsyncClient, path: str, body: Any, status: int, words: str
) -> None:
    answer = await client.post(f"/v1/models/{path}:promote", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert (await client.get(PATH)).json()["model"]["default"] == "1"


async def test_keys_that_a_body_may_have_are_told_as_they_are_written(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PATH}:promote", json={"versoin": "2"})
    assert answer.json()["details"]["allowed"] == ["version", "from", "alias", "force"]


@pytest.mark.parametrize("sent", [{}, {"json": {}}, {"json": {"alias": "champion"}}, {"content": b" "}])
async def test_a_rollback_goes_one_step_back_and_no_further(client: httpx.AsyncClient, sent: dict[str, Any]) -> None:
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
        ("prices@champion", {}, 400, "by its name"),
        ("nope", {}, 404, "nope"),
    ],
)
async def test_a_rollback_that_cannot_be_is_refused(
    client: httpx.AsyncClient, path: str, sent: dict[str, Any], status: int, words: str
) -> None:
    answer = await client.post(f"/v1/models/{path}:rollback", **sent)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


async def test_calls_are_divided_and_copied_until_all_of_it_is_taken_away(client: httpx.AsyncClient) -> None:
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


async def test_copies_alone_divide_nothing(client: httpx.AsyncClient) -> None:
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
        ("prices", {"champion": 100, "shadow": 10}, 400, "'shadow': must be an alias, or null"),
        ("prices", {"champion": 100, "shadow": "a b"}, 400, "not an alias"),
        ("prices", [90, 10], 400, "must be a JSON object"),
        ("prices", {"champion": 90, "nobody": 10}, 404, "no alias 'nobody'"),
        ("prices", {"shadow": "nobody"}, 404, "no alias 'nobody'"),
        ("prices@champion", {"champion": 100}, 400, "by its name"),
        ("nope", {"champion": 100}, 404, "nope"),
    ],
)
async def test_traffic_that_cannot_be_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, fakes: Fakes, path: str, body: Any, status: int, words: str
) -> None:
    answer = await client.put(f"/v1/models/{path}/traffic", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert fakes.manager.plans == {}


async def test_a_wrong_sum_is_told_to_programs_too(client: httpx.AsyncClient) -> None:
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
async def test_a_registry_that_cannot_be_written_to_is_a_409(
    client: httpx.AsyncClient, fakes: Fakes, method: str, path: str, body: Any
) -> None:
    fakes.manager.read_only = True
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "registry_read_only")
    assert (await client.post(f"{PATH}/versions/2:load")).status_code == 200


async def test_a_model_shows_what_answers_and_what_is_held_up(client: httpx.AsyncClient, fakes: Fakes) -> None:
    await client.post(f"{PATH}:promote", json={"version": "2"})
    fakes.manager.desired["prices"] = {"champion": "3", "challenger": "2"}
    fakes.manager.blocked["prices"] = {"champion": "version 3 takes other inputs than version 2"}
    model = (await client.get(PATH)).json()["model"]
    assert model["blocked"] == {"champion": "version 3 takes other inputs than version 2"}
    champion = model["live"]["champion"]
    assert (champion["version"], champion["previous"], champion["why"]) == ("2", "1", "it was promoted")
