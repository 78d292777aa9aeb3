"""The gRPC calls through a real server and channel; Serve's own ingress is tested on the platform."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app import errors
from app.adapters.access.keys import KeyFile, create_key
from app.api.http.access import Access
from app.api.oip.grpc import CODES, InferenceServicer, code_of
from app.api.oip.service import InferenceService
from app.errors import ServingError
from app.oip import inference_pb2 as pb
from app.oip.binary import encode, encode_elements
from app.oip.grpc_service import add_to_server
from app.serving.rows import Batch, Output
from tests.fakes import LIMITS, FakeModel, Fakes, columns, failing, make_fakes, tensor, total
from tests.grpc_stub import make_stub
from tests.test_errors import TREE

RPCS = {
    "ServerLive": "server_live",
    "ServerReady": "server_ready",
    "ServerMetadata": "server_metadata",
    "ModelReady": "model_ready",
    "ModelMetadata": "model_metadata",
    "ModelInfer": "model_infer",
    "RepositoryIndex": "repository_index",
    "RepositoryModelLoad": "repository_model_load",
    "RepositoryModelUnload": "repository_model_unload",
}


@asynccontextmanager
async def serving(
    fakes: Fakes, registry: CollectorRegistry | None = None, timeout_s: float = 10.0
) -> AsyncIterator[Any]:
    """A stub of a server that answers from the fakes."""
    inference = InferenceService(fakes.service, fakes.manager)
    servicer = InferenceServicer(inference, timeout_s, registry or CollectorRegistry(), fakes.access, fakes.observer)
    methods = type("Methods", (), {name: getattr(servicer, method) for name, method in RPCS.items()})
    server = grpc.aio.server()
    add_to_server(methods, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield make_stub(channel)
    await server.stop(None)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


def prices(oil: Any = (75.5,), gas: Any = (3.2,), *, raw: bool = False, model: str = "prices") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    for name, values in (("oil", oil), ("gas", gas)):
        given = request.inputs.add(name=name, datatype="FP64", shape=[len(values)])
        if raw:
            request.raw_input_contents.append(encode(np.array(values, dtype=np.float64)))
        else:
            given.contents.fp64_contents.extend(values)
    return request


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_metadata_of_server_and_models() -> None:
    fakes = make_fakes({"prices": total("oil", "gas"), "prices/versions/2": total("oil", "gas")})
    async with serving(fakes) as stub:
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        fakes.manager.ready = False
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).name == "ml-serve"
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="prices"))
        assert list(metadata.versions) == ["1", "2"]
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
            ("oil", "FP64", [-1]),
            ("gas", "FP64", [-1]),
        ]
        assert list((await stub.ModelMetadata(pb.ModelMetadataRequest(name="prices", version="1"))).versions) == ["1"]


async def test_models_are_loaded_indexed_and_unloaded() -> None:
    async with serving(make_fakes({"prices": total("oil", "gas")})) as stub:
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="prices"))).ready  # a call loads it
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="prices"))
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="prices", version="1"))).ready
        index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
        assert [(one.name, one.version, one.state) for one in index.models] == [("prices", "1", "READY")]
        await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="prices"))
        assert not (await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))).models
        request = pb.RepositoryModelLoadRequest(model_name="prices")
        request.parameters["config"].string_param = "{}"
        assert (await refused(stub.RepositoryModelLoad(request))).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("raw", [True, False])
async def test_response_is_raw_if_the_request_is(raw: bool) -> None:
    request = prices([1.0, 2.0], [0.5, 0.25], raw=raw)
    request.id = "seven"
    request.parameters["tag"].string_param = "x"
    async with serving(make_fakes({"prices": total("oil", "gas")})) as stub:
        call = stub.ModelInfer(request)
        answer = await call
    assert (answer.model_name, answer.model_version, answer.id) == ("prices", "1", "seven")
    assert answer.parameters["tag"].string_param == "x"
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output", "FP64", [2])
    if raw:
        assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [1.5, 2.25]
    else:
        assert list(output.contents.fp64_contents) == [1.5, 2.25]
        assert not answer.raw_output_contents
    assert ("x-model-version", "1") in list(await call.trailing_metadata())


TYPED = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-(2**15), 5]),
    ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64_contents", [2**53 + 1, -(2**63)]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 2**16 - 1]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "fp32_contents", [0.5, -2.0]),
    ("FP64", "fp64_contents", [0.1, 1e300]),
    ("BYTES", "bytes_contents", [b"a", "ü".encode()]),
]


def mirror() -> FakeModel:
    """A model without a signature that answers its input."""
    return FakeModel(lambda batch: tensor(batch.arrays[0]))


@pytest.mark.parametrize(("datatype", "field", "values"), TYPED)
async def test_every_datatype_round_trips_in_its_field(datatype: str, field: str, values: list[Any]) -> None:
    request = pb.ModelInferRequest(model_name="mirror")
    given = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(given.contents, field).extend(values)
    async with serving(make_fakes({"mirror": mirror()})) as stub:
        answer = await stub.ModelInfer(request)
    assert answer.outputs[0].datatype == datatype
    assert list(getattr(answer.outputs[0].contents, field)) == values


async def test_fp16_outputs_are_always_raw() -> None:
    halves = FakeModel(lambda batch: tensor(batch.arrays[0].astype(np.float16)), columns("oil", "gas"))
    async with serving(make_fakes({"prices": halves})) as stub:
        answer = await stub.ModelInfer(prices([0.5], [1.0]))
    assert answer.outputs[0].datatype == "FP16"
    assert np.frombuffer(answer.raw_output_contents[0], np.float16).tolist() == [0.5]


async def test_requested_outputs_come_in_their_order() -> None:
    frame = FakeModel(
        lambda batch: Output("columns", ("a", "b"), (batch.arrays[0], batch.arrays[1]), batch.count),
        columns("oil", "gas"),
    )
    request = prices()
    for name in ("b", "a"):
        request.outputs.add(name=name)
    async with serving(make_fakes({"prices": frame})) as stub:
        assert [output.name for output in (await stub.ModelInfer(request)).outputs] == ["b", "a"]
        request.outputs.add(name="c")
        assert "no output 'c'" in ((await refused(stub.ModelInfer(request))).details() or "")


async def test_parameters_reach_a_model_that_takes_them() -> None:
    seen: list[str] = []

    def predict(batch: Batch) -> Output:
        seen.append(batch.layout.params)
        return tensor(batch.arrays[0])

    spec = [{"name": "top", "type": "long", "default": 1, "shape": None}]
    model = FakeModel(predict, columns("oil", "gas"), params=spec)
    request = prices()
    request.parameters["top"].int64_param = 3
    async with serving(make_fakes({"prices": model})) as stub:
        await stub.ModelInfer(request)
    assert seen == ['{"top":3}']


def changed(change: Callable[[pb.ModelInferRequest], Any], *, raw: bool = False) -> pb.ModelInferRequest:
    request = prices(raw=raw)
    change(request)
    return request


def _shape(*shape: int) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)

    return change


def _set(**values: Any) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        for name, value in values.items():
            setattr(request.inputs[0], name, value)

    return change


def _parameter(name: str, value: int) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        request.parameters[name].int64_param = value

    return change


def _shared_memory(request: pb.ModelInferRequest) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"


INVALID, UNIMPLEMENTED, MISSING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
)
WRONG: list[tuple[pb.ModelInferRequest, grpc.StatusCode, str]] = [
    (pb.ModelInferRequest(model_name="prices"), INVALID, "no tensor"),
    (pb.ModelInferRequest(), INVALID, "not a model name"),
    (prices(model="nope"), MISSING, "no registered model 'nope'"),
    (prices(model="prices@nope"), MISSING, "prices@nope"),
    (prices(model="a/b"), INVALID, "is not understood"),
    (changed(_shape(-1)), INVALID, "none of them negative"),
    (changed(_shape(*[1] * 33)), INVALID, "at most 32 dimensions"),
    (changed(_shape(2)), INVALID, "has 1 values, expected 2"),
    (changed(_shape(2**62, 2**62)), INVALID, "has 1 values"),
    (changed(_shape()), INVALID, "no dimensions"),
    (changed(_shape(1, 1, 1)), INVALID, "has the shape [1, 1, 1]"),
    (changed(_shape(2), raw=True), INVALID, "has 8 bytes, expected 16"),
    (changed(_set(datatype="FP8")), INVALID, "unknown datatype 'FP8'; use one of"),
    (changed(_set(datatype="BF16")), INVALID, "send raw_input_contents"),
    (changed(_set(datatype="INT32")), INVALID, "'int_contents' has 0 values"),
    (changed(_set(name="coal")), INVALID, "coal"),
    (changed(_set(name="gas")), INVALID, "'gas' is there twice"),
    (changed(lambda request: request.raw_input_contents.append(b"x")), INVALID, "1 raw_input_contents for 2 inputs"),
    (
        changed(lambda request: request.inputs[0].contents.fp64_contents.append(1.0), raw=True),
        INVALID,
        "both 'contents' and raw_input_contents",
    ),
    (changed(_parameter("timeout", -1)), INVALID, "microseconds"),
    (changed(_parameter("sequence_id", 7)), UNIMPLEMENTED, "sequences"),
    (changed(_shared_memory), UNIMPLEMENTED, "shared_memory_region"),
]


@pytest.mark.parametrize(("request_", "code", "words"), WRONG, ids=[words for _, _, words in WRONG])
async def test_wrong_request_gets_its_code_and_a_message(
    request_: pb.ModelInferRequest, code: grpc.StatusCode, words: str
) -> None:
    async with serving(make_fakes({"prices": total("oil", "gas")})) as stub:
        wrong, good = await asyncio.gather(refused(stub.ModelInfer(request_)), stub.ModelInfer(prices()))
    assert (wrong.code(), words in (wrong.details() or "")) == (code, True), wrong.details()
    assert list(good.outputs[0].contents.fp64_contents) == [78.7]


async def test_integer_out_of_range_is_refused() -> None:
    request = pb.ModelInferRequest(model_name="mirror")
    request.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents.append(128)
    async with serving(make_fakes({"mirror": mirror()})) as stub:
        error = await refused(stub.ModelInfer(request))
    assert (error.code(), "out of the range of INT8" in (error.details() or "")) == (INVALID, True)


async def test_bytes_that_are_not_utf8_are_refused_by_row() -> None:
    request = pb.ModelInferRequest(model_name="words")
    request.inputs.add(name="word", datatype="BYTES", shape=[2])
    request.raw_input_contents.append(encode_elements([b"fine", b"\xff"]))
    words = FakeModel(lambda batch: tensor(batch.arrays[0]), columns("word", type="string"))
    async with serving(make_fakes({"words": words})) as stub:
        error = await refused(stub.ModelInfer(request))
    assert "row 1" in (error.details() or "")


async def test_model_failure_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    fakes = make_fakes({"prices": failing(ValueError("secret"), "oil", "gas")})
    async with serving(fakes) as stub:
        error = await refused(stub.ModelInfer(prices()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (error.details() or "")
    assert "secret" in caplog.text


async def test_overload_says_when_to_retry() -> None:
    fakes = make_fakes({"prices": total("oil", "gas")}, limits=LIMITS)
    fakes.runner.delay_s = 5.0
    async with serving(fakes) as stub:
        waiting = [asyncio.ensure_future(_call(stub)) for _ in range(LIMITS.queued_requests_per_model)]
        await until(lambda: fakes.service.admission.requests == LIMITS.queued_requests_per_model)
        error = await refused(stub.ModelInfer(prices()))
        for one in waiting:
            one.cancel()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(key == "retry-after" for key, _ in error.trailing_metadata() or ())


async def _call(stub: Any) -> Any:
    return await stub.ModelInfer(prices())


@pytest.mark.parametrize(
    ("seconds", "metadata", "microseconds"),
    [(0.1, (), 0), (None, (("x-request-timeout-seconds", "0.1"),), 0), (None, (), 100_000)],
)
async def test_every_kind_of_deadline_is_kept(
    seconds: float | None, metadata: tuple[tuple[str, str], ...], microseconds: int
) -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 30.0
    request = prices()
    request.parameters["timeout"].int64_param = microseconds
    async with serving(fakes) as stub:
        error = await refused(stub.ModelInfer(request, timeout=seconds, metadata=metadata))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not fakes.service.admission.requests)  # the server has let go of it too


async def test_cancelled_call_withdraws_only_its_rows() -> None:
    fakes = make_fakes({"prices": total("oil", "gas")})
    fakes.runner.delay_s = 0.2
    async with serving(fakes) as stub:
        first = asyncio.ensure_future(_call(stub))
        await until(lambda: bool(fakes.runner.batches))
        gone, stays = stub.ModelInfer(prices([1.0], [1.0])), asyncio.ensure_future(_call(stub))
        await until(lambda: fakes.service.admission.requests == 3)
        gone.cancel()
        await until(lambda: fakes.service.admission.requests == 2)
        for one in (first, stays):
            assert list((await one).outputs[0].contents.fp64_contents) == [78.7]
    assert [batch.count for _, batch in fakes.runner.batches] == [1, 1]


async def test_calls_are_counted_by_method_and_code() -> None:
    registry = CollectorRegistry()
    async with serving(make_fakes({"prices": total("oil", "gas")}), registry) as stub:
        await stub.ModelInfer(prices())
        await refused(stub.ModelInfer(prices(model="nope")))
    for code in ("OK", "NOT_FOUND"):
        labels = {"method": "ModelInfer", "code": code}
        assert registry.get_sample_value("grpc_requests_total", labels) == 1
    assert registry.get_sample_value("grpc_request_duration_seconds_count", {"method": "ModelInfer"}) == 2


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code(kind: type[ServingError]) -> None:
    assert code_of(kind("x")) in {*CODES.values()}
    assert (code_of(kind("x")) is grpc.StatusCode.INTERNAL) == issubclass(
        kind, errors.ModelFailed | errors.StartupError
    ) or kind is ServingError


async def test_calls_need_credentials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.api.http.audit")
    fakes = make_fakes({"prices": total("oil", "gas"), "hidden": total("oil", "gas")})
    _, reader = create_key(tmp_path / "keys", "reader", ["predict"], ["prices"])
    entry, manager = create_key(tmp_path / "keys", "manager", ["manage"])
    fakes.access = Access(KeyFile(tmp_path / "keys"))
    reading, managing = (("authorization", f"Bearer {reader}"),), (("x-api-key", manager),)
    load = pb.RepositoryModelLoadRequest(model_name="prices")
    unload = pb.RepositoryModelUnloadRequest(model_name="prices")
    async with serving(fakes) as stub:
        for open_call in (stub.ServerLive(pb.ServerLiveRequest()), stub.ServerReady(pb.ServerReadyRequest())):
            await open_call
        await stub.ServerMetadata(pb.ServerMetadataRequest())
        calls = [
            (stub.ModelReady, pb.ModelReadyRequest(name="prices"), True, True),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="prices"), True, True),
            (stub.ModelInfer, prices(), True, False),
            (stub.RepositoryIndex, pb.RepositoryIndexRequest(), False, True),
            (stub.RepositoryModelLoad, load, False, True),
            (stub.RepositoryModelUnload, unload, False, True),
        ]
        for call, request, *allowed in calls:
            assert (await refused(call(request))).code() is grpc.StatusCode.UNAUTHENTICATED
            wrong = (("authorization", "Bearer mls_x_y"),)
            assert (await refused(call(request, metadata=wrong))).code() is grpc.StatusCode.UNAUTHENTICATED
            for metadata, may in zip((reading, managing), allowed, strict=True):
                if may:
                    await call(request, metadata=metadata)
                else:
                    assert (await refused(call(request, metadata=metadata))).code() is grpc.StatusCode.PERMISSION_DENIED
        error = await refused(stub.ModelInfer(prices(model="hidden"), metadata=reading))
        assert (error.code(), "hidden" in str(error.details())) == (grpc.StatusCode.PERMISSION_DENIED, True)
        for hidden in (
            stub.ModelReady(pb.ModelReadyRequest(name="hidden"), metadata=reading),
            stub.ModelMetadata(pb.ModelMetadataRequest(name="hidden"), metadata=reading),
        ):
            assert (await refused(hidden)).code() is grpc.StatusCode.PERMISSION_DENIED
    lines = [record.getMessage() for record in caplog.records if record.name == "app.api.http.audit"]
    assert len(lines) == 8
    assert [line.split("result=")[1].split()[0] for line in lines] == [
        *("UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED", "OK"),
        *("UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED", "OK"),
    ]
    assert lines[3].startswith(f"management call: action=grpc_load model=prices caller=manager/{entry.id} peer=")
