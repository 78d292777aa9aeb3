"""gRPC through Serve's ingress and HAProxy: deadlines, message limits and statuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from app.oip import inference_pb2 as pb
from app.settings import Settings
from tests.grpc_stub import make_stub
from tests.platform import Platform
from tests.registered import SLOW_S
from tests.scrape import total

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def channel(platform: Platform) -> Iterator[grpc.Channel]:
    unbounded = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel("127.0.0.1:9000", options=unbounded) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return make_stub(channel)


def request(model: str, values: list[float]) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP64", shape=[len(values)]).contents.fp64_contents.extend(values)
    return message


def cancelled() -> float:
    """The number of cancelled calls that the gateway replicas have counted."""
    return total('grpc_requests_total{code="CANCELLED",method="ModelInfer"}')


def test_response_names_the_model_version(stub: Any) -> None:
    answer, call = stub.ModelInfer.with_call(request("choking", [2.0]), metadata=[("x-request-id", "mine")])
    assert list(answer.outputs[0].contents.fp64_contents) == [4.0]
    trailing = [(item.key, item.value) for item in call.trailing_metadata()]
    assert ("x-model-version", "1") in trailing
    assert len([key for key, _ in trailing if key == "request_id"]) == 1


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (request("nope", [1.0]), grpc.StatusCode.NOT_FOUND, "no registered model 'nope'"),
        (request("linear", [1.0]), grpc.StatusCode.INVALID_ARGUMENT, "lacks 'a', 'b', 'c'"),
        (request("broken", [1.0]), grpc.StatusCode.UNAVAILABLE, "cannot be loaded"),
        (request("choking", [13.0]), grpc.StatusCode.INTERNAL, "the model raised ValueError"),
    ],
    ids=["unknown model", "wrong input", "model that cannot be loaded", "model that raises"],
)
def test_error_keeps_its_code_and_message(
    stub: Any, message: pb.ModelInferRequest, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message)
    assert (caught.value.code(), words in (caught.value.details() or "")) == (code, True), caught.value.details()
    assert "secret" not in str(caught.value)


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel) -> None:
    send: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        send(b"\xff\xfe random")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a ModelInferRequest message" in (caught.value.details() or "")


def test_deadline_cancels_the_call_in_the_gateway(stub: Any) -> None:
    stub.ModelInfer(request("slow", [1.0]))  # loaded
    before = cancelled()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request("slow", [1.0]), timeout=SLOW_S / 2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert list(stub.ModelInfer(request("slow", [3.0])).outputs[0].contents.fp64_contents) == [3.0]
    assert cancelled() == before + 1


def test_only_messages_over_the_limit_are_refused(stub: Any) -> None:
    rows = 50_000
    below = pb.ModelInferRequest(model_name="linear", raw_input_contents=[bytes(rows * 24)])
    below.inputs.add(name="table", datatype="FP64", shape=[rows, 3])
    assert list(stub.ModelInfer(below).outputs[0].shape) == [rows]
    above = pb.ModelInferRequest(model_name="linear", raw_input_contents=[bytes(Settings().limits.grpc_message_bytes)])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(above)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_service_describes_itself(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in list(database.get_services())
    described = database.FindFileContainingSymbol("inference.ModelInferRequest")
    assert described.package == "inference"
