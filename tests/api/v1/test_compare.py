"""``GET /v1/models/{name}/compare``."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from app.api.v1.compare import CompareResponse
from app.serving.comparison.statistics import ShadowCounts, Statistics, VariantCounts
from app.serving.confidence import Moments
from app.serving.references import ModelVersion
from tests.connect import Connect
from tests.fakes import Fakes, make_fakes, total

URL = "/v1/models/a sum/compare"
ALIASES = {"a sum": {"champion": "1", "challenger": "2", "same": "1"}}


@pytest.fixture
def fakes() -> Fakes:
    fakes = make_fakes({"a sum": total("a"), "a sum/versions/2": total("a")}, aliases=ALIASES)
    seconds = Moments(100, 0.02, 0.01)
    fakes.manager.counted_of = {
        ModelVersion("a sum", "1"): Statistics(variant=VariantCounts(0, 60, 1, seconds, Moments(100, 5.0, 100.0))),
        ModelVersion("a sum", "2"): Statistics(
            variant=VariantCounts(0, 60, 30, seconds, Moments(100, 5.0, 100.0)),
            shadows={"1": ShadowCounts(0, 60, {"compared": 40, "model_failed": 2}, {"rows": 1}, 80, 4)},
        ),
    }
    return fakes


async def test_aliases_and_versions_are_compared(connect: Connect, fakes: Fakes) -> None:
    response = await connect(fakes).get(URL, params={"base": "champion", "other": "2"})
    assert response.status_code == 200
    found = response.json()
    assert (found["model_name"], found["level"], found["counted"]) == ("a sum", 0.95, "divided")
    assert (found["base"]["reference"], found["base"]["version"]) == ("champion", "1")
    assert (found["other"]["reference"], found["other"]["version"]) == ("2", "2")
    assert (found["other"]["requests"], found["other"]["faults"]) == (130, 30)
    assert (found["base"]["since"], found["base"]["until"]) == (
        "1970-01-01T00:00:00+00:00",
        "1970-01-01T00:01:00+00:00",
    )
    assert found["error_rate"]["verdict"] == "more errors"
    assert found["latency_s"]["verdict"] == "no difference can be told yet"
    assert (found["shadow"]["requests"], found["shadow"]["errors"]) == (40, {"model_failed": 2})


async def test_the_answer_is_as_documented(connect: Connect, fakes: Fakes) -> None:
    schema = TypeAdapter(CompareResponse).json_schema()
    for counted in (fakes.manager.counted_of, {}):
        fakes.manager.counted_of = counted
        answer = await connect(fakes).get(URL, params={"base": "champion", "other": "challenger"})
        jsonschema.validate(answer.json(), schema)
        assert answer.json().keys() == schema["properties"].keys()
        for side in ("base", "other"):
            assert answer.json()[side].keys() == schema["$defs"]["ComparedVersion"]["properties"].keys()
    document = (await connect(fakes).get("/openapi.json")).json()
    operation = document["paths"]["/v1/models/{name}/compare"]["get"]
    assert [one["name"] for one in operation["parameters"]] == ["name", "base", "other"]
    assert {"400", "404", "409", "503"} < operation["responses"].keys()


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"base": "champion"}, 400, "invalid_request"),
        ({"base": "champion", "other": ""}, 400, "invalid_request"),
        ({"base": "champion", "other": ["1", "2"]}, 400, "invalid_request"),
        ({"base": "champion", "other": "2", "level": "0.99"}, 400, "invalid_request"),
        ({"base": "champion", "other": "a/b"}, 400, "invalid_reference"),
        ({"base": "champion", "other": "9"}, 404, "model_not_found"),
        ({"base": "champion", "other": "same"}, 409, "conflict"),
        ({"base": "1", "other": "champion"}, 409, "conflict"),
    ],
    ids=json.dumps,
)
async def test_what_cannot_be_compared_is_refused(
    connect: Connect, fakes: Fakes, query: dict[str, Any], status: int, code: str
) -> None:
    response = await connect(fakes).get(URL, params=query)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_an_unknown_model_is_a_404(connect: Connect, fakes: Fakes) -> None:
    response = await connect(fakes).get("/v1/models/nope/compare", params={"base": "champion", "other": "challenger"})
    assert response.status_code == 404
