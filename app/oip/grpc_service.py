"""The gRPC service of the Open Inference Protocol, as `inference_pb2` describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from app.oip import inference_pb2

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class Unreadable:
    """Stands for a request whose bytes are not a message of its type."""


def add_to_server(servicer: Any, server: Any) -> None:
    """Add the methods of `servicer`, which have the protocol's names, to a gRPC server."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=_reader(GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in SERVICE.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    server.add_registered_method_handlers(SERVICE.full_name, handlers)


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Return what reads messages of a kind. gRPC would answer an error here with UNKNOWN and Python's text."""

    def read(content: bytes) -> Any:
        try:
            return kind.FromString(content)
        except DecodeError:
            return Unreadable()

    return read
