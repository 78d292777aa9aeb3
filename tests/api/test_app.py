import re
from dataclasses import replace
from pathlib import Path

import pytest

from app import errors
from app.api.http.errors import status_of
from app.errors import ServingError
from tests.connect import Connect
from tests.fakes import HTTP_LIMITS, make_fakes, total
from tests.test_errors import TREE

STATUSES: dict[type[ServingError], int] = {
    errors.ServingError: 500,
    errors.InvalidRequest: 400,
    errors.MalformedBody: 400,
    errors.InvalidInput: 400,
    errors.InvalidReference: 400,
    errors.Unsupported: 501,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.FeatureSourceNotFound: 404,
    errors.EntityNotFound: 404,
    errors.Conflict: 409,
    errors.RegistryReadOnly: 409,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
    errors.ModelUnavailable: 503,
    errors.RegistryUnavailable: 503,
    errors.FeatureStoreUnavailable: 503,
    errors.PoolUnavailable: 503,
    errors.ReplicaDied: 503,
    errors.DeadlineExceeded: 504,
    errors.BodyTimeout: 408,
    errors.CallerGone: 499,
    errors.ModelFailed: 500,
    errors.StartupError: 500,
}


async def test_probes(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    client = connect(fakes)
    assert (await client.get("/livez")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).status_code == 200
    health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert {"gateway", "pools", "registry", "feature_store"} <= health.json()["parts"].keys()


async def test_an_unknown_path_is_an_error_in_the_path_dialect(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    assert (await client.get("/nothing")).json()["error"]["code"] == "not_found"
    assert isinstance((await client.get("/v1/nothing")).json()["error"], str)
    wrong = await client.get("/serve")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "allowed: POST" in wrong.json()["error"]["message"]


async def test_a_post_to_a_model_without_a_verb_is_a_404(connect: Connect) -> None:
    answer = await connect(make_fakes({})).post("/v1/models/prices", json={})
    assert answer.status_code == 404
    assert "allow" not in answer.headers
    assert answer.json()["error"].startswith(
        "no such endpoint: /v1/models/prices; a POST to a model ends in ':predict'"
    )


@pytest.mark.parametrize("echoes", [True, False])
async def test_the_request_id_is_echoed_exactly_once(connect: Connect, echoes: bool) -> None:
    limits = replace(HTTP_LIMITS, echo_request_id=echoes)
    client = connect(make_fakes({"prices": total("oil", "gas")}, http_limits=limits))
    for path in ("/serve", "/nothing", "/v1/models/x:predict"):
        answer = await client.post(path, json={}, headers={"x-request-id": "mine"})
        assert answer.json()["request_id"] == "mine"
        assert answer.headers.get_list("x-request-id") == (["mine"] if echoes else [])


async def test_the_schema_has_every_endpoint(connect: Connect) -> None:
    schema = (await connect(make_fakes({})).get("/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    assert {"/serve", "/v1/models/{ref}:predict", "/v1/models", "/health", "/livez", "/readyz", "/metrics"} <= set(
        schema["paths"]
    )
    body = schema["paths"]["/serve"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model_name", "data", "use_feature_store", "entity_id", "action"} <= set(body["properties"])
    assert (await connect(make_fakes({})).get("/docs")).status_code == 200


@pytest.mark.parametrize("path", ["/serve", "/v1/models/{ref}:predict"])
async def test_the_schema_documents_parameters_and_error_statuses(connect: Connect, path: str) -> None:
    operation = (await connect(make_fakes({})).get("/openapi.json")).json()["paths"][path]["post"]
    expected = {"200", "400", "404", "408", "413", "415", "429", "500", "503", "504"}
    manages = path == "/serve"  # and then refuses pages of other origins
    assert set(operation["responses"]) == {*expected, *(["403"] if manages else [])}
    headers = {one["name"] for one in operation["parameters"] if one["in"] == "header"}
    assert headers == {"x-request-id", "x-request-timeout-seconds", "x-session-id"}
    assert [one["name"] for one in operation["parameters"] if one["in"] == "path"] == re.findall(r"{(\w+)}", path)


async def test_summaries_are_plain_sentences(connect: Connect) -> None:
    paths = (await connect(make_fakes({})).get("/openapi.json")).json()["paths"]
    summaries = [operation["summary"] for path in paths.values() for operation in path.values()]
    assert [text for text in summaries if "`" in text or not text.endswith(".")] == []
    assert paths["/v1/models/{ref}:predict"]["post"]["summary"] == "Predict rows, or entities of the feature store."


async def test_metrics_have_the_route_template_not_the_raw_path(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    await client.post("/v1/models/prices:predict", json={"instances": [{"oil": 1, "gas": 1}]})
    await client.post("/v1/models/other:predict", json={"instances": [1]})
    await client.get("/v1/models/prices")
    await client.get("/never/heard/of")
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("http_requests_total")]
    assert any('path="/v1/models/{ref:path}:predict"' in line and 'status_code="200"' in line for line in lines)
    assert any('path="/v1/models/{ref:path}:predict"' in line and 'status_code="404"' in line for line in lines)
    assert not any("prices" in line or "never" in line for line in lines)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[ServingError]) -> None:
    assert status_of(kind("x")) == STATUSES[kind]


async def test_metrics_include_collectors_in_multiprocess_mode(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    text = (await connect(make_fakes({"prices": total("oil")})).get("/metrics")).text
    assert "process_resident_memory_bytes" in text  # from a collector, which has no file in that folder


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"])
async def test_probes_may_use_head(connect: Connect, path: str) -> None:
    client = connect(make_fakes({"prices": total("oil")}))
    asked, headed = await client.get(path), await client.head(path)
    assert (headed.status_code, headed.headers["content-type"]) == (asked.status_code, asked.headers["content-type"])
