"""A client of the gRPC service: its methods over a channel, blocking or asynchronous like the channel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from app.oip.grpc_service import SERVICE


def make_stub(channel: Any) -> Any:
    methods = {
        method.name: channel.unary_unary(
            f"/{SERVICE.full_name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        for method in SERVICE.methods
    }
    return SimpleNamespace(**methods)
