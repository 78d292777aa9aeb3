import asyncio
from typing import Any

import numpy as np
import pytest

from app.serving.rows import Output
from tests.connect import Connect
from tests.fakes import FakeFeatureStore, FakeModel, columns, make_fakes, total

ROW = {"oil": 75.5, "gas": 3.2}
STORE: dict[str, dict[str, dict[str, Any]]] = {"view": {"wti": {"oil": 75.5, "gas": 3.2}}}
IMAGE = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [ROW]},
        {"instances": [[75.5, 3.2]]},
        {"inputs": {"oil": [75.5], "gas": [3.2]}},
        {"entities": [{"id": "wti"}], "feature_service": "service"},
        {"entities": [{"id": "wti"}], "feature_view": "view"},
    ],
)
async def test_every_form_of_input_is_answered(connect: Connect, body: dict[str, Any]) -> None:
    store = FakeFeatureStore(STORE, services={"service": "view"})
    client = connect(make_fakes({"prices": total("oil", "gas")}, features=store))
    answer = await client.post("/v1/models/prices:predict", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["predictions"], found["model_name"], found["model_version"]) == ([78.7], "prices", "1")
    assert found.get("features") == ({"oil": [75.5], "gas": [3.2]} if "entities" in body else None)
    assert answer.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    "path", ["prices", "prices@champion", "prices/versions/1", "prices%40champion", "prices%2Fversions%2F1"]
)
async def test_references_in_paths_may_be_percent_encoded(connect: Connect, path: str) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}, aliases={"prices": {"champion": "1"}}))
    answer = await client.post(f"/v1/models/{path}:predict", json={"instances": [ROW]})
    assert answer.json()["predictions"] == [78.7]


async def test_tensors_go_in_and_out_nested(connect: Connect) -> None:
    double = FakeModel(lambda batch: Output("tensor", (), (batch.arrays[0] * 2,), batch.count), IMAGE)
    client = connect(make_fakes({"image": double}))
    answer = await client.post("/v1/models/image:predict", json={"instances": [[1, 2], [3, 4.5]]})
    assert answer.json()["predictions"] == [[2, 4], [6, 9]]


async def test_a_frame_is_answered_as_records(connect: Connect) -> None:
    frame = FakeModel(
        lambda batch: Output("columns", ("id", "ok"), (np.array([2**53 + 1]), np.array([True])), 1), columns("x")
    )
    client = connect(make_fakes({"frame": frame}))
    answer = await client.post("/v1/models/frame:predict", json={"instances": [{"x": 1}]})
    assert answer.json()["predictions"] == [{"id": 2**53 + 1, "ok": True}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "exactly one of"),
        ({"instances": [ROW], "inputs": {}}, "exactly one of"),
        ({"instances": ROW}, "instances"),
        ({"instances": []}, "no rows"),
        ({"instances": [ROW], "signature_name": "x"}, "'signature_name': is not a key"),
        ({"instances": [[1, 2, 3]]}, "row 0"),
        ({"inputs": {"oil": [1, 2], "gas": [1]}}, "gas"),
        ({"instances": [ROW], "parameters": {"top": 1}}, "'top'"),
        ({"entities": [{"id": "wti"}]}, "feature_service"),
        ({"instances": [ROW], "overrides": {"oil": 1}}, "'overrides' needs 'entities'"),
        ({"instances": [ROW], "feature_view": "view"}, "'feature_view' needs 'entities'"),
        ({"inputs": {"oil": [1], "gas": [1]}, "feature_service": "service"}, "'feature_service' needs 'entities'"),
    ],
)
async def test_a_bad_body_is_a_400_in_kserves_shape(connect: Connect, body: Any, words: str) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}, features=FakeFeatureStore(STORE)))
    answer = await client.post("/v1/models/prices:predict", json=body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["unknown:predict", "prices@nobody:predict", "prices/versions/9:predict"])
async def test_what_does_not_exist_is_a_404(connect: Connect, path: str) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post(f"/v1/models/{path}", json={"instances": [ROW]})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


async def test_models_are_listed_loaded_and_unloaded(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    assert [model["name"] for model in (await client.get("/v1/models")).json()["models"]] == ["prices"]
    loaded = (await client.post("/v1/models/prices/versions/1:load")).json()
    assert loaded == {"model_name": "prices", "model_version": "1", "state": "ready"}
    model = (await client.get("/v1/models/prices")).json()
    assert (model["name"], model["ready"]) == ("prices", True)
    unloaded = (await client.post("/v1/models/prices:unload")).json()
    assert (unloaded["model_version"], unloaded["state"]) == ("1", "unloaded")
    assert (await client.get("/v1/models/prices")).json()["ready"] is True  # a call loads it again
    assert (await client.get("/v1/models/none")).status_code == 404


async def test_requests_with_other_parameters_never_share_a_batch(connect: Connect) -> None:
    seen: list[str] = []

    def predict(batch: Any) -> Output:
        seen.append(batch.layout.params)
        return Output("tensor", (), (np.zeros(batch.count),), batch.count)

    model = FakeModel(predict, columns("x"), params=[{"name": "top", "type": "long", "default": 1, "shape": None}])
    client = connect(make_fakes({"m": model}))
    bodies = [{"instances": [{"x": 1}], "parameters": {"top": n % 2}} for n in range(10)]
    await asyncio.gather(*(client.post("/v1/models/m:predict", json=body) for body in bodies))
    assert set(seen) == {'{"top":0}', '{"top":1}'}


async def test_a_signature_with_fixed_rows_gets_one_call_per_request(connect: Connect) -> None:
    pair = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [2]}}]
    fakes = make_fakes({"pair": FakeModel(lambda batch: Output("tensor", (), batch.arrays, batch.count), pair)})
    client = connect(fakes)
    bodies = [{"instances": [n, n]} for n in range(10)]
    answers = await asyncio.gather(*(client.post("/v1/models/pair:predict", json=body) for body in bodies))
    assert [answer.json()["predictions"] for answer in answers] == [[n, n] for n in range(10)]
    assert [batch.count for _, batch in fakes.runner.batches] == [2] * 10


@pytest.mark.parametrize(("name", "kind"), [("service", "feature_service"), ("view", "feature_view")])
async def test_a_feature_source_shows_join_keys_and_features(connect: Connect, name: str, kind: str) -> None:
    store = FakeFeatureStore(STORE, services={"service": "view"})
    client = connect(make_fakes({"prices": total("oil", "gas")}, features=store))
    answer = (await client.get(f"/v1/features/{name}")).json()
    assert answer == {"name": name, "kind": kind, "join_keys": ["id"], "features": ["oil", "gas"]}


async def test_an_unknown_feature_source_is_404_and_no_store_503(connect: Connect) -> None:
    client = connect(make_fakes({}, features=FakeFeatureStore(STORE)))
    answer = await client.get("/v1/features/nope")
    assert (answer.status_code, answer.json()["code"]) == (404, "feature_source_not_found")
    assert (await connect(make_fakes({})).get("/v1/features/view")).status_code == 503
