"""Every dialect names the version that answered and keeps a session on one version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from app.oip import inference_pb2 as pb
from app.oip.binary import encode
from app.serving.references import ModelRef
from app.serving.releases.traffic import Traffic, Variant
from tests.api.oip.test_grpc import serving
from tests.connect import Connect
from tests.fakes import Fakes, make_fakes, total

SPLIT = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))
TENSOR = {"name": "a", "datatype": "FP64", "shape": [1], "data": [1.0]}
SESSIONS = [f"session-{n}" for n in range(20)]
CSV = {"content-type": "text/csv"}

Post = Callable[[httpx.AsyncClient, dict[str, str]], Awaitable[httpx.Response]]


def post(url: str, body: Any) -> Post:
    return lambda client, headers: client.post(url, json=body, headers=headers)


DIALECTS: dict[str, Post] = {
    "/serve": post("/serve", {"model_name": "m", "data": {"a": 1.0}}),
    "/": post("/", {"model_name": "m", "data": {"a": 1.0}}),
    "/v1": post("/v1/models/m:predict", {"instances": [{"a": 1.0}]}),
    "/v2": post("/v2/models/m/infer", {"inputs": [TENSOR]}),
    "/v2 raw": lambda client, headers: client.post(
        "/v2/models/m/infer",
        content=np.array([1.0]).tobytes(),
        headers={"inference-header-content-length": "0", "content-type": "application/octet-stream", **headers},
    ),
    "/invocations": post("/invocations", {"dataframe_records": [{"a": 1.0}]}),
    "/invocations/m": post("/invocations/m", {"inputs": {"a": [1.0]}}),
    "/invocations/m as CSV": lambda client, headers: client.post(
        "/invocations/m", content=b"a\n1.0\n", headers={**CSV, **headers}
    ),
    "/models/m/invocations": post("/models/m/invocations", {"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}),
}


@pytest.fixture
def fakes() -> Fakes:
    models = {"m": total("a"), "m/versions/2": total("a", offset=100)}
    fakes = make_fakes(models, aliases={"m": {"champion": "1", "challenger": "2"}})
    fakes.directory.traffics["m"] = SPLIT
    fakes.default_model = ModelRef("m")
    return fakes


def value(body: dict[str, Any]) -> float:
    """The one number that was predicted, in any dialect."""
    if "outputs" in body:
        return float(body["outputs"][0]["data"][0])
    return float((body.get("predictions") or body["prediction"])[0])


@pytest.mark.parametrize("name", DIALECTS)
async def test_http_answers_name_the_version_and_sessions_stay(connect: Connect, fakes: Fakes, name: str) -> None:
    client, ask = connect(fakes), DIALECTS[name]
    seen = {}
    for session in SESSIONS:
        answers = [await ask(client, {"x-session-id": session}) for _ in range(3)]
        versions = {answer.headers["x-model-version"] for answer in answers}
        assert len(versions) == 1
        seen[session] = versions.pop()
        if name != "/v2 raw":  # which is answered in binary too
            assert {value(answer.json()) for answer in answers} == {1.0 if seen[session] == "1" else 101.0}
            named = {answer.json().get("model_version", seen[session]) for answer in answers}
            assert named == {seen[session]}
    assert seen == {session: SPLIT.choose("m", session) for session in SESSIONS}
    without = {(await ask(client, {})).headers["x-model-version"] for _ in range(60)}
    assert without == {"1", "2"}


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/models/m@challenger:predict", {"instances": [{"a": 1.0}]}),
        ("/v1/models/m/versions/2:predict", {"instances": [{"a": 1.0}]}),
        ("/v2/models/m/versions/2/infer", {"inputs": [TENSOR]}),
        ("/v2/models/m/versions/challenger/infer", {"inputs": [TENSOR]}),
        ("/invocations/m@challenger", {"inputs": {"a": [1.0]}}),
        ("/serve", {"model_name": "m", "alias": "challenger", "data": {"a": 1.0}}),
        ("/serve", {"model_name": "m", "model_version": 2, "data": {"a": 1.0}}),
    ],
)
async def test_a_request_for_a_version_is_never_split(connect: Connect, fakes: Fakes, url: str, body: Any) -> None:
    client = connect(fakes)
    answers = [await client.post(url, json=body, headers={"x-session-id": session}) for session in SESSIONS]
    assert {answer.headers["x-model-version"] for answer in answers} == {"2"}


async def test_other_requests_use_the_default_version(connect: Connect, fakes: Fakes) -> None:
    fakes.directory.traffics["m"] = Traffic((Variant("challenger", "2", 100.0),))
    client = connect(fakes)
    assert (await client.get("/v1/models/m/schema")).headers["x-model-version"] == "1"
    assert (await client.get("/v2/models/m/stats")).json()["model_stats"][0]["version"] == "1"
    assert (await client.get("/v1/models/m")).json()["model"]["default"] == "1"


async def test_grpc_answers_name_the_version_and_sessions_stay(fakes: Fakes) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="a", datatype="FP64", shape=[1])
    request = pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[encode(np.array([1.0]))])
    async with serving(fakes) as stub:

        async def ask(*metadata: tuple[str, str]) -> str:
            call = stub.ModelInfer(request, metadata=metadata)
            answer = await call
            assert dict(await call.trailing_metadata())["x-model-version"] == answer.model_version
            return str(answer.model_version)

        seen = {session: {await ask(("x-session-id", session)) for _ in range(3)} for session in SESSIONS}
        assert seen == {session: {SPLIT.choose("m", session)} for session in SESSIONS}
        assert set(await asyncio.gather(*(ask() for _ in range(60)))) == {"1", "2"}
