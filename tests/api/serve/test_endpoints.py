import asyncio
from typing import Any

import numpy as np
import pytest

from app.errors import FeatureStoreUnavailable, ModelFailed, ModelUnavailable
from tests.connect import Connect
from tests.fakes import FakeFeatureStore, FakeModel, columns, failing, make_fakes, tensor, total

ROW = {"oil": 75.5, "gas": 3.2}
STORE: dict[str, dict[str, dict[str, Any]]] = {
    "prices_view": {"wti": {"oil": 75.5, "gas": 3.2, "unused": 1.0}, "brent": {"oil": 80.0, "gas": None, "unused": 2.0}}
}


def nan() -> FakeModel:
    return FakeModel(lambda batch: tensor(np.array([np.nan, np.inf])[: batch.count]), columns("x"))


async def test_one_row_is_answered_in_the_documented_shape(connect: Connect) -> None:
    answer = await connect(make_fakes({"prices": total("oil", "gas")})).post(
        "/serve", json={"model_name": "prices", "data": ROW}, headers={"x-request-id": "mine"}
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "prediction": [78.7],
        "status": "success",
        "model_name": "prices",
        "model_version": "1",
        "request_id": "mine",
    }
    assert answer.headers["x-model-version"] == "1"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["content-type"] == "application/json"


async def test_the_root_is_the_same_endpoint(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answers = [(await client.post(path, json={"model_name": "prices", "data": ROW})).json() for path in ("/", "/serve")]
    assert answers[0]["prediction"] == answers[1]["prediction"]


async def test_a_list_of_rows_is_one_prediction_each(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    rows = [{"oil": n, "gas": 1} for n in range(5)]
    answer = await client.post("/serve", json={"model_name": "prices", "data": rows})
    assert answer.json()["prediction"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ({"model_name": "prices"}, "2"),
        ({"model_name": "prices", "model_version": "1"}, "1"),
        ({"model_name": "prices", "model_version": 1}, "1"),
        ({"model_name": "prices", "alias": "old"}, "1"),
        ({"model_name": "prices@old"}, "1"),
        ({"model_name": "prices/versions/2"}, "2"),
    ],
)
async def test_versions_and_aliases_are_followed(connect: Connect, body: dict[str, Any], version: str) -> None:
    models = {"prices/versions/1": total("oil", "gas"), "prices/versions/2": total("oil", "gas", offset=1000)}
    client = connect(make_fakes(models, aliases={"prices": {"champion": "2", "old": "1"}}))
    answer = await client.post("/serve", json={**body, "data": ROW})
    assert answer.json()["model_version"] == version
    assert (answer.json()["prediction"][0] > 1000) == (version == "2")


async def test_features_are_read_and_overrides_win(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")}, features=FakeFeatureStore(STORE))
    client = connect(fakes)
    body: dict[str, Any] = {"model_name": "prices", "use_feature_store": True, "feature_view": "prices_view"}
    one = await client.post("/serve", json={**body, "entity_id": "wti"})
    assert one.json()["prediction"] == [78.7]
    override = await client.post("/serve", json={**body, "entity_id": "wti", "data": {"gas": 10}})
    assert override.json()["prediction"] == [85.5]
    several = await client.post("/serve", json={**body, "entity_id": ["wti", "brent"], "data": {"gas": [1, 2]}})
    assert several.json()["prediction"] == [76.5, 82]
    by_key = await client.post("/serve", json={**body, "entities": [{"id": "wti"}]})
    assert by_key.json()["prediction"] == [78.7]
    missing_value = await client.post("/serve", json={**body, "entity_id": "brent"})
    assert missing_value.json()["prediction"] == [None]


async def test_reads_of_concurrent_requests_share_a_call(connect: Connect) -> None:
    store = FakeFeatureStore(STORE)
    client = connect(make_fakes({"prices": total("oil", "gas")}, features=store))
    body = {"model_name": "prices", "use_feature_store": True, "feature_view": "prices_view", "entity_id": "wti"}
    answers = await asyncio.gather(*(client.post("/serve", json=body) for _ in range(20)))
    assert {answer.json()["prediction"][0] for answer in answers} == {78.7}
    assert sum(len(ids) for ids in store.reads) == 20
    assert len(store.reads) < 20


async def test_load_unload_and_status(connect: Connect) -> None:
    models = {"prices/versions/1": total("oil", "gas"), "prices/versions/2": total("oil", "gas")}
    client = connect(make_fakes(models, aliases={"prices": {"champion": "1"}}))
    loaded = (await client.post("/serve", json={"model_name": "prices", "action": "load", "model_version": "2"})).json()
    assert (loaded["status"], loaded["model_version"], loaded["default_version"]) == ("success", "2", "1")
    status = (await client.post("/serve", json={"model_name": "prices", "action": "status"})).json()
    assert status["model"]["aliases"] == {"champion": "1"}
    unloaded = (
        await client.post("/serve", json={"model_name": "prices", "action": "unload", "model_version": "2"})
    ).json()
    assert (unloaded["status"], unloaded["model_version"]) == ("success", "2")


NO_DATA = {"model_name": "prices"}
FEATURES = {"model_name": "prices", "use_feature_store": True}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "malformed_body", "'model_name': is missing"),
        ([], "malformed_body", "must be a JSON object"),
        ({"model_name": ""}, "malformed_body", "model_name"),
        ({"model_name": "a/b", "data": ROW}, "invalid_reference", "name/versions/N"),
        (NO_DATA, "malformed_body", "'data' is missing"),
        ({**NO_DATA, "data": "x"}, "malformed_body", "data"),
        ({**NO_DATA, "data": []}, "invalid_input", "no rows"),
        ({**NO_DATA, "datas": ROW}, "malformed_body", "'datas': is not a key"),
        ({**NO_DATA, "data": ROW, "action": "destroy"}, "malformed_body", "action"),
        ({**NO_DATA, "data": {"oil": 1}}, "invalid_input", "'gas'"),
        ({**NO_DATA, "data": {**ROW, "coal": 1}}, "invalid_input", "'coal'"),
        ({**NO_DATA, "data": {**ROW, "gas": "x"}}, "invalid_input", "'gas'"),
        ({**NO_DATA, "data": [ROW, {**ROW, "gas": True}]}, "invalid_input", "row 1"),
        ({**NO_DATA, "data": ROW, "model_version": "x"}, "invalid_reference", "whole numbers"),
        ({**NO_DATA, "data": ROW, "model_version": "1", "alias": "a"}, "invalid_reference", "not both"),
        ({**NO_DATA, "data": ROW, "params": {"t": 1}}, "invalid_input", "'t'"),
        ({**NO_DATA, "data": ROW, "entity_id": "wti"}, "malformed_body", "use_feature_store"),
        (FEATURES, "malformed_body", "feature_view"),
        ({**FEATURES, "feature_view": "prices_view"}, "malformed_body", "entity_id"),
        ({**FEATURES, "feature_view": "v", "feature_service": "s", "entity_id": "a"}, "malformed_body", "needs either"),
        ({**FEATURES, "feature_view": "prices_view", "entity_id": []}, "invalid_input", "no entity"),
        ({**FEATURES, "feature_view": "prices_view", "entity_id": "wti", "data": [1]}, "malformed_body", "override"),
        (
            {**FEATURES, "feature_view": "prices_view", "entity_id": "wti", "data": {"gas": [1, 2]}},
            "invalid_input",
            "gas",
        ),
        ({**FEATURES, "use_feature_store": "yes"}, "malformed_body", "use_feature_store"),
        ({**NO_DATA, "data": ROW, "promote": True}, "malformed_body", "'promote' needs"),
        ({**NO_DATA, "action": "unload", "promote": True}, "malformed_body", "'promote' needs"),
        ({**NO_DATA, "action": "load", "data": ROW}, "malformed_body", "'data' is not allowed with 'action': 'load'"),
        ({**NO_DATA, "action": "unload", "params": {}}, "malformed_body", "'params' is not allowed with"),
        ({**NO_DATA, "action": "status", "entity_id": "wti"}, "malformed_body", "'entity_id' is not allowed with"),
        ({**FEATURES, "action": "load"}, "malformed_body", "'use_feature_store' is not allowed with"),
    ],
)
async def test_a_bad_body_is_a_400_that_says_what_to_fix(connect: Connect, body: Any, code: str, words: str) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")}, features=FakeFeatureStore(STORE))
    answer = await connect(fakes).post("/serve", json=body)
    assert answer.status_code == 400, answer.text
    fault = answer.json()
    assert fault["status"] == "error"
    assert fault["error"]["code"] == code
    assert words in fault["error"]["message"]
    assert fault["request_id"] == answer.headers["x-request-id"]
    assert fakes.runner.batches == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model_name": "price", "data": ROW}, "model_not_found"),
        ({"model_name": "prices@nobody", "data": ROW}, "model_not_found"),
        ({"model_name": "prices", "model_version": "9", "data": ROW}, "model_not_found"),
        ({**FEATURES, "feature_view": "other", "entity_id": "wti"}, "feature_source_not_found"),
        ({**FEATURES, "feature_view": "prices_view", "entity_id": "gold"}, "entity_not_found"),
    ],
)
async def test_what_does_not_exist_is_a_404(connect: Connect, body: Any, code: str) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")}, features=FakeFeatureStore(STORE))
    answer = await connect(fakes).post("/serve", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


async def test_an_unknown_entity_with_all_columns_is_answered(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}, features=FakeFeatureStore(STORE)))
    body = {**FEATURES, "feature_view": "prices_view", "entity_id": "gold", "data": ROW}
    assert (await client.post("/serve", json=body)).json()["prediction"] == [78.7]


async def test_a_model_that_raises_is_a_500_without_its_text(connect: Connect) -> None:
    error = ModelFailed("the model raised ValueError")
    error.__cause__ = ValueError("password=hunter2")
    client = connect(make_fakes({"bad": failing(error, "x")}))
    answer = await client.post("/serve", json={"model_name": "bad", "data": {"x": 1}})
    assert answer.status_code == 500
    assert answer.json()["error"] == {"code": "model_failed", "message": "the model raised ValueError"}
    assert "hunter2" not in answer.text


async def test_an_unexpected_error_reveals_nothing(connect: Connect) -> None:
    client = connect(make_fakes({"bad": failing(RuntimeError("password=hunter2"), "x")}))
    answer = await client.post("/serve", json={"model_name": "bad", "data": {"x": 1}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "hunter2" not in answer.text


async def test_another_number_of_items_never_shifts_answers(connect: Connect) -> None:
    short = FakeModel(lambda batch: tensor(batch.arrays[0][1:]), columns("x"))
    client = connect(make_fakes({"short": short}))
    bodies = [{"model_name": "short", "data": [{"x": 1}, {"x": number}]} for number in (2, 3, 4)]
    answers = await asyncio.gather(*(client.post("/serve", json=body) for body in bodies))
    assert [answer.json()["prediction"] for answer in answers] == [[2.0], [3.0], [4.0]]


async def test_what_is_not_available_is_a_503(connect: Connect) -> None:
    store = FakeFeatureStore(STORE)
    broken = FakeModel(
        lambda batch: tensor(np.zeros(1)), columns("x"), error=ModelUnavailable("its artifacts are gone")
    )
    client = connect(make_fakes({"broken": broken, "prices": total("oil", "gas")}, features=store))
    answer = await client.post("/serve", json={"model_name": "broken", "data": {"x": 1}})
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "its artifacts are gone")
    store.error = FeatureStoreUnavailable("Redis does not answer")
    body = {**FEATURES, "feature_view": "prices_view", "entity_id": "wti"}
    answer = await client.post("/serve", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "feature_store_unavailable")
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    assert (await client.post("/serve", json=body)).status_code == 503


async def test_nan_and_infinity_are_null(connect: Connect) -> None:
    client = connect(make_fakes({"nan": nan()}))
    answer = await client.post("/serve", json={"model_name": "nan", "data": [{"x": 1}, {"x": 2}]})
    assert answer.json()["prediction"] == [None, None]


async def test_a_deadline_that_passes_is_a_504_in_the_dialect(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 5
    answer = await connect(fakes).post(
        "/serve", json={"model_name": "prices", "data": ROW}, headers={"x-request-timeout-seconds": "0.05"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert fakes.recorder.failures == [("prices", "deadline_exceeded")]
    assert fakes.service.admission.requests == 0


@pytest.mark.parametrize("header", ["soon", "-1", "0", "nan", "inf"])
async def test_a_deadline_that_is_no_number_is_a_400(connect: Connect, header: str) -> None:
    answer = await connect(make_fakes({"prices": total("oil", "gas")})).post(
        "/serve", json={"model_name": "prices", "data": ROW}, headers={"x-request-timeout-seconds": header}
    )
    assert answer.status_code == 400
    assert "x-request-timeout-seconds" in answer.json()["error"]["message"]


async def test_overload_is_a_429_with_retry_after(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 0.2
    client = connect(fakes)
    answers = await asyncio.gather(
        *(client.post("/serve", json={"model_name": "prices", "data": ROW}) for _ in range(80))
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 64
    assert statuses.count(429) == 16
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"


async def test_too_many_rows_are_a_413(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post("/serve", json={"model_name": "prices", "data": [ROW] * 1001})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_bad_requests_do_not_affect_concurrent_good_ones(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    client = connect(fakes)
    bodies: list[Any] = [
        {"model_name": "prices", "data": {"oil": n, "gas": "bad" if n % 3 == 0 else 1}} for n in range(60)
    ]
    answers = await asyncio.gather(*(client.post("/serve", json=body) for body in bodies))
    for n, answer in enumerate(answers):
        if n % 3 == 0:
            assert answer.status_code == 400
            assert "'gas'" in answer.json()["error"]["message"]
        else:
            assert answer.json()["prediction"] == [n + 1]
    assert sum(batch.count for _, batch in fakes.runner.batches) == 40


async def test_a_refused_promotion_is_a_409_with_the_differences(connect: Connect) -> None:
    models = {"prices": total("oil", "gas"), "prices/versions/2": total("oil", "coal")}
    fakes = make_fakes(models, aliases={"prices": {"champion": "1"}})
    body = {"model_name": "prices", "action": "load", "model_version": "2", "promote": True}
    answer = await connect(fakes).post("/serve", json=body)
    assert answer.status_code == 409, answer.text
    fault = answer.json()
    assert (fault["status"], fault["error"]["code"]) == ("error", "conflict")
    assert len(fault["error"]["details"]["differences"]) == 2
    fakes.manager.read_only = True
    assert (await connect(fakes).post("/serve", json=body)).json()["error"]["code"] == "registry_read_only"
    loaded = await connect(fakes).post("/serve", json={**body, "promote": False})
    assert (loaded.status_code, loaded.json()["default_version"]) == (200, "1")
