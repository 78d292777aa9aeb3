"""One trace over the processes of a request: the real application, lanes, and a real pool member, in this process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from opentelemetry.trace import get_current_span
from prometheus_client import CollectorRegistry

from app.adapters.traces.tracer import OtlpTracer
from app.api.app import create_app
from app.api.http.observation import make_observer
from app.api.oip.grpc import InferenceServicer
from app.api.oip.service import InferenceService
from app.errors import ModelFailed
from app.oip import inference_pb2 as pb
from app.oip.binary import encode
from app.serving.batching.limits import BatchOverrides
from app.serving.features import FeatureRows
from app.serving.observation import TraceCarrier
from app.serving.placement.load import Backlog
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.rows import Batch, Output
from app.settings import BatchSettings, Settings, TraceSettings
from tests.collector import Collector, Sent, collecting
from tests.deployments.test_pool_member import VERSION, Releases, settings
from tests.fakes import (
    HTTP_LIMITS,
    LIMITS,
    SHADOW,
    FakeFeatureStore,
    FakeManager,
    FakeRecorder,
    Fakes,
    failing,
    make_fakes,
    total,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns about its own settings while it is imported
    from app.deployments.feature_client import FeatureClient
    from app.deployments.features import Features
    from app.deployments.pool_client import LocalPoolClient, PoolClient
    from app.deployments.pool_member import PoolMember
    from app.lanes.client import Lane
    from app.lanes.server import LaneServer

__all__ = ["settings"]

pytestmark = pytest.mark.filterwarnings("ignore")

PATH = f"/v1/models/{VERSION.name}:predict"
SERVED = "POST /v1/models/{ref}:predict"
ROWS = {"instances": [{"x": 1.0}, {"x": 2.0}]}
GATEWAY, POOL, FEATURES = "ml-serve-gateway", "ml-serve-pool-default", "ml-serve-features"


def parent(number: int, *, sampled: bool = True) -> dict[str, str]:
    """The headers of a caller with a trace of its own."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-0{int(sampled)}", "tracestate": f"vendor={number}"}


class Gateway:
    """A gateway over one pool member and one replica of the feature store, each with its tracer."""

    def __init__(self, app: Any, service: PredictionService, manager: FakeManager, observer: Any, close: Any) -> None:
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        self.servicer = InferenceServicer(
            InferenceService(service, manager), 10.0, CollectorRegistry(), observer=observer
        )
        self.close = close


def tracer(collector: Collector, service: str, ratio: float = 0.0) -> OtlpTracer:
    return OtlpTracer(TraceSettings(endpoint=collector.url, sample_ratio=ratio), service, "1")


@asynccontextmanager
async def lane_to(answer: Any, name: str) -> AsyncIterator[Any]:
    """What chooses the only lane to a function."""
    server = LaneServer(answer, name)
    lane = await Lane.connect(await server.start("member", "127.0.0.1"), name)
    try:
        yield SimpleNamespace(choose=lambda *_: lane)
    finally:
        lane.close()
        await server.stop(0)


class Store:
    """What a replica of `Features` reads from."""

    def read(self, query: Any, entities: Sequence[Any]) -> FeatureRows:
        return FeatureRows({"x": [float(entity["id"]) for entity in entities]}, [True] * len(entities))


@asynccontextmanager
async def gateway(
    collector: Collector, settings: Settings, ratio: float = 0.0, *, inside: bool = False
) -> AsyncIterator[Gateway]:
    """Serve the model of `settings`. `inside`: its pool is placed in the gateway."""
    tracers = [tracer(collector, GATEWAY, ratio), tracer(collector, POOL), tracer(collector, FEATURES)]
    member = PoolMember("default", settings, Releases(ReleaseTable(1, 1)), "member", tracers[1])
    await member.start()
    # The constructor of `Features` needs Feast and Serve.
    read: Any = partial(Features.read, cast(Features, SimpleNamespace(_store=Store(), _tracer=tracers[2])))
    handle: Any = SimpleNamespace(describe=SimpleNamespace(remote=lambda version, note: member.describe(version)))
    async with lane_to(member.predict, "the pool") as pool, lane_to(read, "the feature store") as reads:
        runner: Any = LocalPoolClient(member) if inside else PoolClient("default", handle, lambda _: 1, pool)
        fakes = make_fakes({VERSION.name: total("x")})
        fakes.directory._runner = runner
        fakes.directory.overrides[VERSION.name] = BatchOverrides(row_wise=True)
        store = FeatureClient(handle, reads)
        store.source = FakeFeatureStore({"view": {"1": {"x": 1.0}}}).source  # type: ignore[method-assign]
        service = PredictionService(
            fakes.directory,
            store,
            FakeRecorder(),
            limits=LIMITS,
            batch=BatchSettings(max_in_flight=1),
            shadow=SHADOW,
        )
        await service.model(ModelRef(VERSION.name))
        observer = make_observer(tracers[0])
        app = create_app(service, fakes.manager, HTTP_LIMITS, observer=observer)

        async def close() -> None:
            await asyncio.gather(*(one.close() for one in tracers))

        made = Gateway(app, service, fakes.manager, observer, close)
        yield made
        await made.client.aclose()
    await member.stop()


def tree(spans: Sequence[Sent], top: str) -> dict[str, Any]:
    """The spans below a parent: ``{(service, name): {…}}``."""
    return {f"{one.service} {one.name}": tree(spans, one.id) for one in spans if one.parent == top}


BELOW: dict[str, Any] = {f"{GATEWAY} queue": {}, f"{GATEWAY} call": {f"{POOL} predict": {}}}


@pytest.mark.parametrize("inside", [False, True], ids=["over a lane", "in the gateway"])
async def test_a_trace_goes_from_the_caller_to_the_pool(settings: Settings, inside: bool) -> None:
    with collecting() as collector:
        async with gateway(collector, settings, inside=inside) as served:
            headers = {**parent(7), "x-request-id": "r7"}
            assert (await served.client.post(PATH, json=ROWS, headers=headers)).status_code == 200
            await served.close()
    assert {one.trace for one in collector.spans} == {f"{7:032x}"}
    assert {one.state for one in collector.spans} == {"vendor=7"}
    assert tree(collector.spans, f"{7:016x}") == {f"{GATEWAY} {SERVED}": BELOW}
    found = {one.name: one for one in collector.spans}
    assert found[SERVED].attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/models/{ref}:predict",
        "http.response.status_code": 200,
        "ml_serve.dialect": "v1",
        "ml_serve.model.name": VERSION.name,
        "ml_serve.model.version": "1",
        "ml_serve.request_id": "r7",
        "ml_serve.rows": 2,
    }
    assert found["call"].attributes == {"ml_serve.batch_requests": 1, "ml_serve.batch_rows": 2}
    assert found["predict"].attributes["ml_serve.rows"] == 2
    assert found[SERVED].started <= found["queue"].started <= found["queue"].ended <= found["call"].ended
    assert found["call"].ended <= found[SERVED].ended
    assert found["predict"].ended - found["predict"].started >= 40e6  # the model takes 50 ms
    assert not any(one.failed for one in collector.spans)


async def test_each_sampled_request_of_a_batch_has_a_whole_trace(settings: Settings) -> None:
    with collecting() as collector:
        async with gateway(collector, settings) as served:
            first = asyncio.ensure_future(served.client.post(PATH, json=ROWS))  # keeps the only slot busy
            await asyncio.sleep(0.02)
            headers = [parent(1), parent(2), parent(3, sampled=False), {}]
            answers = await asyncio.gather(
                *(served.client.post(PATH, json=ROWS, headers=one) for one in headers), first
            )
            assert [answer.json()["predictions"] for answer in answers[:4]] == [[8.0, 8.0]] * 4  # one batch
            await served.close()
    assert {one.trace for one in collector.spans} == {f"{1:032x}", f"{2:032x}"}
    for number in (1, 2):
        assert tree(collector.spans, f"{number:016x}") == {f"{GATEWAY} {SERVED}": BELOW}
    found = [one.attributes for one in collector.spans if one.name == "call"]
    assert found == [{"ml_serve.batch_requests": 4, "ml_serve.batch_rows": 8}] * 2


async def test_the_read_of_features_is_a_part_of_the_trace(settings: Settings) -> None:
    body = {"entities": [{"id": "13.5"}, {"id": "2"}], "feature_view": "view"}
    with collecting() as collector:
        async with gateway(collector, settings, ratio=1) as served:
            assert (await served.client.post(PATH, json=body)).status_code == 200
            await served.close()
    (top,) = [one for one in collector.spans if one.parent == ""]
    reads: dict[str, Any] = {f"{GATEWAY} features": {f"{FEATURES} read": {}}}
    assert tree(collector.spans, top.id) == {**reads, **BELOW}
    assert not any("13.5" in str(one) for one in collector.spans)


async def test_a_failure_is_in_each_span_without_its_values(settings: Settings) -> None:
    with collecting() as collector:
        async with gateway(collector, settings, ratio=1) as served:
            assert (await served.client.post(PATH, json={"instances": [{"x": 13.0}]})).status_code == 500
            assert (await served.client.post(PATH, json={"instances": [{"x": "4711"}]})).status_code == 400
            await served.close()
    codes = {(one.name, one.failed, one.attributes.get("error.type")) for one in collector.spans}
    assert codes == {
        ("queue", False, None),
        ("predict", True, "model_failed"),
        ("call", True, "model_failed"),
        (SERVED, True, "model_failed"),
        (SERVED, False, "invalid_input"),
    }
    assert not any("4711" in str(one) or "thirteen" in str(one) for one in collector.spans)


async def test_the_metadata_of_grpc_has_the_trace(settings: Settings) -> None:
    request = pb.ModelInferRequest(model_name=VERSION.name)
    request.inputs.add(name="x", datatype="FP64", shape=[1])
    request.raw_input_contents.append(encode(np.array([1.0])))
    with collecting() as collector:
        async with gateway(collector, settings) as served:
            for headers in (parent(9), {}):
                context = SimpleNamespace(
                    invocation_metadata=lambda headers=headers: [*headers.items(), ("x-request-id", "r9")],
                    set_trailing_metadata=lambda _: None,
                )
                assert (await served.servicer.model_infer(request, context)).model_name == VERSION.name
            await served.close()
    name = "inference.GRPCInferenceService/ModelInfer"
    assert tree(collector.spans, f"{9:016x}") == {f"{GATEWAY} {name}": BELOW}
    assert {one.trace for one in collector.spans} == {f"{9:032x}"}
    (top,) = [one for one in collector.spans if one.name == name]
    assert top.attributes["rpc.response.status_code"] == "OK"
    assert (top.attributes["ml_serve.dialect"], top.attributes["ml_serve.request_id"]) == ("grpc", "r9")


async def test_log_lines_have_the_id_of_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "app")
    with collecting() as collector:
        fakes = make_fakes({"bad": failing(ModelFailed("it raised"), "oil")})
        own = tracer(collector, GATEWAY)
        fakes.observer = make_observer(own)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(fakes.app), base_url="http://gateway") as client:
            for headers in (parent(5), {}):
                body = {"instances": [{"oil": 1}]}
                assert (await client.post("/v1/models/bad:predict", json=body, headers=headers)).status_code == 500
        await own.close()
    facts = [getattr(record, "facts", {}) for record in caplog.records]
    assert [one.get("trace_id") for one in facts] == [f"{5:032x}"] * 2 + [None] * 2


async def test_json_calls_and_streams_are_in_the_trace(settings: Settings) -> None:
    class Calls:
        """The JSON calls of a member's models."""

        async def invoke(self, version: Any, body: bytes, *, apart: bool) -> bytes:
            return body

        async def stream(self, version: Any, body: bytes, *, apart: bool) -> AsyncIterator[str]:
            for event in ("a", "b"):
                yield event

        def close(self) -> None:
            """Nothing to end."""

    with collecting() as collector:
        own = tracer(collector, POOL)
        member = PoolMember("default", settings, Releases(ReleaseTable(1, 1)), "member", own)
        member._json_calls = Calls()  # type: ignore[assignment]
        runner = LocalPoolClient(member)
        assert await runner.invoke(VERSION, b"{}", [parent(1)]) == b"{}"
        assert [event async for event in runner.stream(VERSION, b"{}", [parent(2)])] == ["a", "b"]
        left = runner.stream(VERSION, b"{}", [parent(3)])
        assert await anext(left) == "a"
        await left.aclose()
        assert await runner.invoke(VERSION, b"{}") == b"{}"
        await own.close()
    assert [(one.name, one.trace, one.failed, one.attributes.get("error.type")) for one in collector.spans] == [
        ("predict", f"{1:032x}", False, None),
        ("predict", f"{2:032x}", False, None),
        ("predict", f"{3:032x}", False, "GeneratorExit"),
    ]


async def test_no_context_leaks_into_a_batch() -> None:
    seen: list[tuple[int, bool]] = []
    with collecting() as collector:
        fakes: Fakes = make_fakes({"prices": total("oil", "gas")})
        own = tracer(collector, GATEWAY, 1.0)
        fakes.observer = make_observer(own)
        predict = fakes.runner.predict

        async def noting(version: ModelVersion, batch: Batch, backlog: Backlog, **how: Any) -> Output:
            seen.append((len([*contextvars.copy_context()]), get_current_span().get_span_context().is_valid))
            return await predict(version, batch, backlog, **how)

        fakes.runner.predict = noting  # type: ignore[method-assign]
        client = httpx.AsyncClient(transport=httpx.ASGITransport(fakes.app), base_url="http://gateway")
        body = {"instances": [{"oil": 1, "gas": 1}]}
        assert (await client.post("/v1/models/prices:predict", json=body)).status_code == 200
        await client.aclose()
        await own.close()
    assert seen == [(0, False)]
    assert len(collector.spans) == 3


async def test_the_handle_carries_the_trace_in_the_note() -> None:
    notes: list[Any] = []
    traces: list[TraceCarrier] = [parent(1), parent(2)]

    class Handle:
        def options(self, **_: Any) -> Handle:
            return self

        async def remote(self, version: Any, batch: Any, note: Any) -> Any:
            notes.append(note)

    client = PoolClient("default", Handle(), lambda _: 1)
    batch: Any = SimpleNamespace(nbytes=1)
    await client.predict(VERSION, batch, Backlog(), traces=traces)
    await client.predict(VERSION, batch, Backlog())
    assert [note.traces for note in notes] == [(parent(1), parent(2)), ()]
