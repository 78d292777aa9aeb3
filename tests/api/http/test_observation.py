"""The debug line of a prediction, through the real application."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import numpy as np
import pytest

from app.adapters.access.keys import KeyFile, create_key
from app.api.http.access import Access
from app.api.http.observation import Observer, make_observer
from app.errors import ModelFailed
from app.oip import inference_pb2 as pb
from app.oip.binary import encode
from tests.api.oip.test_grpc import serving
from tests.connect import Connect
from tests.fakes import FakeFeatureStore, FakeModel, Fakes, failing, make_fakes, total

LOGGER = "app.api.http.observation"
ROWS = {"instances": [{"oil": 1, "gas": 2}, {"oil": 3, "gas": 4}]}
PHASES = ["total_ms", "read_ms", "queue_ms", "call_ms", "write_ms"]


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)


def observed(models: dict[str, FakeModel], **further: Any) -> Fakes:
    fakes = make_fakes(models, **further)
    fakes.observer = make_observer()
    return fakes


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The facts of each line."""
    return [vars(record)["facts"] for record in caplog.records if record.name == LOGGER]


def times(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.endswith("_ms")}


def test_nobody_observes_at_other_levels(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(make_observer(), Observer)
    caplog.set_level(logging.INFO, LOGGER)
    assert make_observer() is None


async def test_a_prediction_is_a_line_with_its_phases(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    fakes = observed({"prices": total("oil", "gas")}, aliases={"prices": {"champion": "1"}})
    fakes.runner.delay_s = 0.02
    answer = await connect(fakes).post("/v1/models/prices@champion:predict", json=ROWS, headers={"x-request-id": "r1"})
    assert answer.status_code == 200
    (line,) = lines(caplog)
    assert {name: value for name, value in line.items() if not name.endswith("_ms")} == {
        "route": "/v1/models/{ref:path}:predict",
        "model": "prices",
        "version": "1",
        "alias": "champion",
        "rows": 2,
        "result": 200,
        "request_id": "r1",
        "caller": "anonymous",
    }
    assert [*times(line)] == PHASES
    assert 20 <= line["call_ms"] <= line["total_ms"]
    assert sum(times(line).values()) - line["total_ms"] <= line["total_ms"]
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    assert record.getMessage().startswith("prediction: route=/v1/models/{ref:path}:predict model=prices version=1")


async def test_each_request_of_a_batch_has_its_own_wait(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    fakes = observed({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 0.05
    client = connect(fakes)
    first = asyncio.ensure_future(client.post("/v1/models/prices:predict", json=ROWS))
    await asyncio.sleep(0.02)
    assert len(fakes.runner.batches) == 1
    await asyncio.gather(*(client.post("/v1/models/prices:predict", json=ROWS) for _ in range(3)), first)
    waits = sorted(line["queue_ms"] for line in lines(caplog))
    assert len(fakes.runner.batches) == 2
    assert waits[0] < 20 < waits[1]


async def test_a_large_request_has_the_times_of_all_pieces(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    fakes = observed({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 0.02
    rows = {"instances": [{"oil": 1, "gas": 2}] * 250}  # a batch has 100
    assert (await connect(fakes).post("/v1/models/prices:predict", json=rows)).status_code == 200
    (line,) = lines(caplog)
    assert line["rows"] == 250
    assert line["call_ms"] >= 3 * 20


async def test_the_read_of_features_is_a_phase(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    store = FakeFeatureStore({"view": {"e-secret": {"oil": 1.0, "gas": 2.0}}})
    fakes = observed({"prices": total("oil", "gas")}, features=store)
    body = {"entities": [{"id": "e-secret"}], "feature_view": "view"}
    assert (await connect(fakes).post("/v1/models/prices:predict", json=body)).status_code == 200
    (line,) = lines(caplog)
    assert line["features_ms"] > 0
    assert "e-secret" not in caplog.text


async def test_no_value_of_a_row_is_in_a_line(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    client = connect(
        observed({"prices": total("oil", "gas"), "bad": failing(ModelFailed("it saw 4711"), "oil", "gas")})
    )
    for path, oil in (("prices", 4711), ("prices", "4711!"), ("bad", 4711), ("none", 4711)):
        await client.post(f"/v1/models/{path}:predict", json={"instances": [{"oil": oil, "gas": 1}]})
    found = lines(caplog)
    assert [(line["result"], line.get("code")) for line in found] == [
        (200, None),
        (400, "invalid_input"),
        (500, "model_failed"),
        (404, "model_not_found"),
    ]
    assert not any("4711" in str(line) for line in found)


async def test_a_request_that_cannot_be_read_has_a_line(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    await connect(observed({})).post("/serve", content=b"{")
    (line,) = lines(caplog)
    assert (line["route"], line["result"], line["code"]) == ("/serve", 400, "malformed_body")
    assert [*times(line)] == ["total_ms", "read_ms", "write_ms"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/serve", {"model_name": "prices", "data": {"oil": 1, "gas": 2}}),
        ("/v1/models/prices:predict", ROWS),
        ("/invocations/prices", ROWS),
        (
            "/v2/models/prices/infer",
            {"inputs": [{"name": n, "datatype": "FP64", "shape": [1], "data": [1.0]} for n in ("oil", "gas")]},
        ),
    ],
)
async def test_each_dialect_is_observed(
    connect: Connect, caplog: pytest.LogCaptureFixture, path: str, body: Any
) -> None:
    answer = await connect(observed({"prices": total("oil", "gas")})).post(path, json=body)
    assert answer.status_code == 200
    assert [(line["model"], *times(line)) for line in lines(caplog)] == [("prices", *PHASES)]


async def test_grpc_is_observed(caplog: pytest.LogCaptureFixture) -> None:
    def request(model: str) -> pb.ModelInferRequest:
        made = pb.ModelInferRequest(model_name=model)
        for name in ("oil", "gas"):
            made.inputs.add(name=name, datatype="FP64", shape=[1])
            made.raw_input_contents.append(encode(np.array([1.0])))
        return made

    async with serving(observed({"prices": total("oil", "gas")})) as stub:
        await stub.ModelInfer(request("prices"), metadata=[("x-request-id", "r2")])
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ModelInfer(request("none"))
    answered, refused = lines(caplog)
    assert (answered["route"], answered["result"], answered["request_id"]) == ("ModelInfer", "OK", "r2")
    assert [*times(answered)] == PHASES
    assert (refused["model"], refused["result"], refused["code"]) == ("none", "NOT_FOUND", "model_not_found")


async def test_json_calls_and_streams_are_observed(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    chat = FakeModel(
        lambda batch: (_ for _ in ()).throw(AssertionError),
        invoke=lambda body: b'{"a": 1}',
        stream=lambda body: (event for event in ('{"b": 1}', '{"b": 2}')),
        takes_json=True,
    )
    client = connect(observed({"chat": chat}))
    for stream in (False, True):
        answer = await client.post("/invocations/chat", json={"messages": [], "stream": stream})
        assert answer.status_code == 200
    assert [(line["version"], line["rows"], [*times(line)]) for line in lines(caplog)] == [
        ("1", 1, ["total_ms", "read_ms", "call_ms", "write_ms"])
    ] * 2


async def test_the_line_names_the_caller(connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    entry, key = create_key(tmp_path / "keys.json", "desk", ["predict"])
    fakes = observed({"prices": total("oil", "gas")})
    fakes.access = Access(KeyFile(tmp_path / "keys.json"))
    client = connect(fakes)
    await client.post("/v1/models/prices:predict", json=ROWS, headers={"x-api-key": key})
    assert [line["caller"] for line in lines(caplog)] == [f"desk/{entry.id}"]
    assert key not in caplog.text


async def test_management_through_serve_has_no_line_of_a_prediction(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(observed({"prices": total("oil")}))
    assert (await client.post("/serve", json={"model_name": "prices", "action": "load"})).status_code == 200
    assert lines(caplog) == []
