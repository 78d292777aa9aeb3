import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.api.system import openapi
from app.errors import ModelUnavailable, Unavailable
from app.serving.references import ModelRef, parse_ref
from app.serving.releases.table import ModelStatus
from app.serving.releases.traffic import make_plan
from tests.connect import Connect
from tests.fakes import FakeManager, FakeModel, Fakes, columns, make_fakes, tensor, total

OIL_AND_GAS = replace(
    total("oil", "gas"),
    outputs=[{"name": "price", "type": "double", "required": True}],
    params=[{"name": "top", "type": "long", "default": 3, "shape": None}],
    example={"dataframe_split": {"columns": ["oil", "gas"], "data": [[75.5, 3.2]]}},
    metadata={"columns": {"oil": {"description": "Price of crude oil", "unit": "USD per barrel"}}},
)
IMAGES = FakeModel(
    lambda batch: tensor(batch.arrays[0].sum(axis=(1, 2))),
    [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 3]}}],
    [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}],
)
NESTED = FakeModel(
    lambda batch: tensor(batch.arrays[0]),
    [
        {"name": "id", "type": "long", "required": True},
        {"name": "tags", "type": "array", "items": {"type": "string"}, "required": False},
        {"name": "when", "type": "datetime", "required": False},
    ],
)
MODELS = {
    "prices": OIL_AND_GAS,
    "images": IMAGES,
    "nested": NESTED,
    "unnamed": FakeModel(
        lambda batch: tensor(batch.arrays[0]),
        [{"type": "double", "required": True}, {"type": "long", "required": True}],
    ),
    "odd {name} ä?": replace(total("x"), inputs=columns("x")),
}


async def load(fakes: Fakes, *names: str) -> Fakes:
    for name in names or fakes.directory.names():
        await fakes.manager.load(parse_ref(name))
    return fakes


async def document(connect: Connect, fakes: Fakes, **headers: str) -> dict[str, Any]:
    answer = await connect(fakes).get("/openapi.json", headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    validate(answer.text)
    return found


@cache
def validate(text: str) -> None:
    """Validate each document once, because that takes a second and many tests get the same."""
    OpenAPIV31SpecValidator(json.loads(text)).validate()


def tags(found: dict[str, Any]) -> list[str]:
    return [tag["name"] for tag in found["tags"]]


def operations(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operation of each model, by its path."""
    return {
        path: item["post"]
        for path, item in found["paths"].items()
        if path.startswith("/v1/models/") and path.endswith(":predict") and "{" not in path
    }


async def test_a_chat_model_is_documented_where_it_is_called(connect: Connect) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    model = replace(total("x"), takes_json=True, example=chat)
    found = await document(connect, await load(make_fakes({"my chat": model})))
    assert operations(found) == {}
    operation = found["paths"]["/invocations/my%20chat"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["example"] == chat
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


async def test_each_loaded_model_has_its_own_operation(connect: Connect) -> None:
    found = await document(connect, await load(make_fakes(MODELS)))
    assert tags(found) == sorted(MODELS)
    shown = operations(found)
    assert {name for operation in shown.values() for name in operation["tags"]} == set(MODELS)
    assert "/v1/models/odd%20%7Bname%7D%20%C3%A4%3F:predict" in shown
    ids = [operation["operationId"] for item in found["paths"].values() for operation in item.values()]
    assert len({*ids}) == len(ids)


async def test_types_units_errors_and_headers(connect: Connect) -> None:
    found = await document(connect, await load(make_fakes(MODELS)))
    operation = found["paths"]["/v1/models/prices:predict"]["post"]
    request = operation["requestBody"]["content"]["application/json"]
    row = request["schema"]["properties"]["instances"]["items"]
    assert row["properties"]["oil"]["description"] == "Price of crude oil (USD per barrel)"
    assert (row["required"], row["additionalProperties"]) == (["oil", "gas"], False)
    assert request["schema"]["properties"]["parameters"]["properties"]["top"]["default"] == 3
    assert request["example"] == {"instances": [{"oil": 75.5, "gas": 3.2}]}
    general = found["paths"]["/v1/models/{ref}:predict"]["post"]
    assert operation["responses"].keys() == general["responses"].keys()
    assert operation["responses"]["400"] == general["responses"]["400"]
    assert [one["name"] for one in operation["parameters"]] == [
        "x-request-id",
        "x-request-timeout-seconds",
        "x-session-id",
    ]


async def test_every_example_is_answered_as_the_schema_says(connect: Connect) -> None:
    fakes = await load(make_fakes(MODELS))
    client = connect(fakes)
    for path, operation in operations(await document(connect, fakes)).items():
        request = operation["requestBody"]["content"]["application/json"]
        Draft202012Validator(request["schema"]).validate(request["example"])
        answer = await client.post(path, json=request["example"])
        assert answer.status_code == 200, answer.text
        response = operation["responses"]["200"]["content"]["application/json"]
        Draft202012Validator(response["schema"]).validate(answer.json())
        Draft202012Validator(response["schema"]).validate(response["example"])


async def test_a_cold_model_is_neither_shown_nor_loaded(connect: Connect) -> None:
    fakes = await load(make_fakes(MODELS), "prices")
    described = []
    describe = fakes.runner.describe

    async def spy(version: Any) -> Any:
        described.append(version.name)
        return await describe(version)

    fakes.runner.describe = spy  # type: ignore[method-assign]
    assert tags(await document(connect, fakes)) == ["prices"]
    assert described == ["prices"]


async def test_models_come_and_go(connect: Connect) -> None:
    fakes = await load(
        make_fakes(
            {"prices": OIL_AND_GAS, "prices/versions/2": replace(total("gas"), example=None), "other": total("x")}
        ),
        "prices/versions/1",
        "prices/versions/2",
    )
    fakes.directory.aliases["prices"] = {"champion": "1"}
    row = ["requestBody", "content", "application/json", "schema", "properties", "instances", "items", "required"]

    async def required() -> Any:
        found: Any = (await document(connect, fakes))["paths"]["/v1/models/prices:predict"]["post"]
        for key in row:
            found = found[key]
        return found

    assert await required() == ["oil", "gas"]
    fakes.directory.aliases["prices"] = {"champion": "2"}
    assert await required() == ["gas"]
    await load(fakes, "other")
    assert tags(await document(connect, fakes)) == ["other", "prices"]
    await fakes.manager.unload(ModelRef("prices", version="2"))
    assert tags(await document(connect, fakes)) == ["other"]


async def test_a_model_whose_calls_are_divided_says_how(connect: Connect) -> None:
    fakes = await load(
        make_fakes(
            {"prices": OIL_AND_GAS, "prices/versions/2": total("gas")},
            aliases={"prices": {"champion": "1", "challenger": "2", "same": "1"}},
        ),
        "prices@champion",
    )

    async def told() -> tuple[str, str]:
        found = await document(connect, fakes)
        (tag,) = found["tags"]
        text = found["paths"]["/v1/models/prices:predict"]["post"]["description"]
        return text.partition(" `")[0], tag["description"]

    undivided = ("Version 1 answers.", "Version 1, fake.")
    assert await told() == undivided
    fakes.manager.plans["prices"] = make_plan({"challenger": 9.5, "champion": 90.5, "same": 0})
    divided = "Traffic split: 90.5 % to version 1 (champion), 9.5 % to version 2 (challenger)."
    assert await told() == (f"{divided} This describes version 1.", f"Version 1, fake. {divided}")
    fakes.manager.plans["prices"] = make_plan({"challenger": 100})
    assert (await told())[0] == "Traffic split: 100 % to version 2 (challenger). This describes version 1."
    for plan in (make_plan({"same": 50, "champion": 50}), make_plan({"champion": 100}, "challenger"), make_plan({})):
        fakes.manager.plans["prices"] = plan
        assert await told() == undivided


async def test_a_name_registered_again_is_described_again(connect: Connect) -> None:
    fakes = await load(make_fakes({"prices": OIL_AND_GAS}))
    await document(connect, fakes)
    models: Any = fakes.runner._models
    models[parse_ref("prices/versions/1").pinned] = total("other")
    fakes.service.forget("prices")
    assert "other" in str(operations(await document(connect, fakes))["/v1/models/prices:predict"])


async def test_the_document_is_built_once_for_the_same_models(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[list[str]] = []
    build = openapi.build

    def counted(base: Any, served: Sequence[Any]) -> dict[str, Any]:
        builds.append([one.model.spec.name for one in served])
        return build(base, served)

    monkeypatch.setattr(openapi, "build", counted)
    fakes = await load(make_fakes(MODELS), "prices")
    client = connect(fakes)
    first = await client.get("/openapi.json")
    prefixed = await client.get("/openapi.json", headers={"x-forwarded-prefix": "/ml/serve"})
    again = await asyncio.gather(*(client.get("/openapi.json") for _ in range(8)))
    assert {answer.content for answer in again} == {first.content} != {prefixed.content}
    assert builds == [["prices"]]
    await load(fakes, "images")
    await client.get("/openapi.json")
    assert builds == [["prices"], ["images", "prices"]]


async def test_a_model_that_cannot_be_described_is_left_out_alone(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = await load(make_fakes({**MODELS, "unknown": total("x"), "gone": total("x")}))
    models: Any = fakes.runner._models
    models[parse_ref("unknown/versions/1").pinned] = FakeModel(
        lambda batch: tensor(batch.arrays[0]), columns("x", type="q")
    )
    models[parse_ref("gone/versions/1").pinned] = replace(total("x"), error=ModelUnavailable("it is gone"))
    assert tags(await document(connect, fakes)) == sorted(MODELS)

    def raising(model: Any) -> Any:
        raise ValueError(model)

    monkeypatch.setattr(
        openapi, "example_request", lambda model: raising(model) if model.spec.name == "images" else None
    )
    fakes.service.forget("images")
    assert tags(await document(connect, fakes)) == sorted(MODELS.keys() - {"images"})


async def test_a_model_that_does_not_answer_is_left_out(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "_TIMEOUT_S", 0.05)
    fakes = await load(make_fakes({"prices": OIL_AND_GAS, "slow": total("x")}))
    describe, told = fakes.runner.describe, asyncio.Event()

    async def slow(version: Any) -> Any:
        if version.name == "slow":
            await told.wait()
        return await describe(version)

    fakes.runner.describe = slow  # type: ignore[method-assign]
    assert tags(await document(connect, fakes)) == ["prices"]
    told.set()
    await asyncio.sleep(0)
    assert tags(await document(connect, fakes)) == ["prices", "slow"]


async def test_without_the_release_table_the_schema_is_without_models(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status(self: FakeManager) -> Sequence[ModelStatus]:
        raise Unavailable("the release table does not answer now")

    fakes = await load(make_fakes(MODELS))
    monkeypatch.setattr(FakeManager, "status", status)
    found = await document(connect, fakes)
    assert operations(found) == {}
    assert "/v1/models/{ref}:predict" in found["paths"]


async def test_the_committed_schema_is_the_one_without_models(connect: Connect) -> None:
    fakes = await load(make_fakes(MODELS))
    await document(connect, fakes)
    assert operations(fakes.app.openapi()) == {}


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ("/ml/serve", "/ml/serve"),
        ("/ml/serve/", "/ml/serve"),
        ("/a_b-c.d~e", "/a_b-c.d~e"),
        ("", None),
        ("/", None),
        ("//evil.example", None),
        ("/ml//serve", None),
        ("https://evil.example", None),
        ("ml/serve", None),
        ("/../x", None),
        ('/"><script>', None),
        ("/ml serve", None),
        ("/ml/serve, /other", None),
        ("/ml?x", None),
        ("/%2e%2e", None),
        ("/" + "a" * 300, None),
    ],
)
async def test_the_prefix_that_a_gateway_has_stripped(connect: Connect, header: str, url: str | None) -> None:
    found = await document(connect, make_fakes({}), x_forwarded_prefix=header)
    assert found.get("servers") == (None if url is None else [{"url": url}])


async def test_the_schema_of_one_version(connect: Connect) -> None:
    client = connect(make_fakes({"prices": OIL_AND_GAS, "prices/versions/2": total("gas")}))
    first = await client.get("/v1/models/prices/versions/1/schema")
    newest = await client.get("/v1/models/prices/schema")
    assert (first.json()["model_version"], newest.json()["model_version"]) == ("1", "2")
    assert first.headers["x-model-version"] == "1"
    assert first.json().keys() == {"model_name", "model_version", "request", "response"}
    request, response = first.json()["request"], first.json()["response"]
    for schema in (request, response):
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(schema)
    body = {"instances": [{"oil": 1, "gas": None}]}
    assert Draft202012Validator(request).is_valid(body)
    assert not Draft202012Validator(newest.json()["request"]).is_valid(body)
    answer = await client.post("/v1/models/prices/versions/1:predict", json=body)
    Draft202012Validator(response).validate(answer.json())


async def test_the_schema_of_what_is_not_there(connect: Connect) -> None:
    client = connect(make_fakes({"prices": OIL_AND_GAS}))
    assert (await client.get("/v1/models/nothing/schema")).json()["code"] == "model_not_found"
    assert (await client.get("/v1/models/a/b/schema")).json()["code"] == "invalid_reference"
