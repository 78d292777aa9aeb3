"""The gRPC service of the Open Inference Protocol, as `inference_pb2` describes it."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from app.oip import inference_pb2

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def add_to_server(servicer: Any, server: Any) -> None:
    """Add the methods of `servicer`, which have the protocol's names, to a gRPC server."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in SERVICE.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    server.add_registered_method_handlers(SERVICE.full_name, handlers)
