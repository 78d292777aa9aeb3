import pytest

from app.api.errors import STATUSES, status_of
from tests.api.conftest import Connect
from tests.fakes import make_fakes, total
from tests.test_errors import TREE


async def test_probes(connect: Connect) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    client = connect(fakes)
    assert (await client.get("/livez")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).status_code == 200
    health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert {"gateway", "pools", "registry", "feature_store"} <= health.json()["parts"].keys()


async def test_what_is_not_there_is_told_in_the_dialect_of_the_path(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    assert (await client.get("/nothing")).json()["error"]["code"] == "not_found"
    assert isinstance((await client.get("/v1/nothing")).json()["error"], str)
    wrong = await client.get("/serve")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "allowed: POST" in wrong.json()["error"]["message"]


async def test_the_schema_holds_every_endpoint(connect: Connect) -> None:
    schema = (await connect(make_fakes({})).get("/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    assert {"/serve", "/v1/models/{ref}:predict", "/v1/models", "/health", "/livez", "/readyz", "/metrics"} <= set(
        schema["paths"]
    )
    body = schema["paths"]["/serve"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model_name", "data", "use_feature_store", "entity_id", "action"} <= set(body["properties"])
    assert (await connect(make_fakes({})).get("/docs")).status_code == 200


async def test_metrics_count_by_route_template_and_never_by_raw_path(connect: Connect) -> None:
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
def test_every_error_has_a_status(kind: type) -> None:
    status = status_of(kind("x"))
    assert 400 <= status < 600
    assert status == next(STATUSES[base] for base in kind.__mro__ if base in STATUSES)
