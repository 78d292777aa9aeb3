"""A client of the gRPC service: its methods over a channel, blocking or asynchronous like the channel.

`CallContext` is for calls of the servicer without a channel.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

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


class CallContext:
    """A call's context: what the caller sent, and what it gets."""

    def __init__(self, metadata: Any = ()) -> None:
        self._metadata = metadata
        self.code, self.details = StatusCode.OK, ""
        self.trailing: list[tuple[str, str]] = []

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1234"

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.trailing = trailing_metadata

    def set_code(self, code: StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details
