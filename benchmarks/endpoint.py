"""`Endpoint`: one model of a running system, asked in one dialect, over HTTP or gRPC."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import httpx
import numpy as np

from benchmarks.dialects import Dialect, Request
from benchmarks.models import Array, ModelData

_TIMEOUT_S = 30.0
TOLERANCE = 1e-6
"""Relative and absolute. Inputs have four decimals, so that only the order of additions can differ."""
NO_ANSWER = (httpx.HTTPError, grpc.RpcError)
GRPC_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class WrongAnswer(Exception):
    """An answer without a prediction, or with the prediction of another row."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a model, dialect to call it in, inputs and expected answers.

    Args:
        port: the HTTP port, or the gRPC port for dialects over gRPC.
        name: name of the model in that system.
        rows_per_request: 1, or the rows of a table.
    """

    port: int
    dialect: Dialect
    name: str
    data: ModelData
    rows_per_request: int = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def count(self) -> int:
        """Number of different requests."""
        return len(self.data.rows) // self.rows_per_request

    def request(self, index: int) -> Request:
        """Return the request of this number."""
        return self.dialect.encode(self.name, self.data.columns, self.data.rows[self._slice(index)])

    def expected(self, index: int) -> Array:
        """Return the expected answer to it."""
        return self.data.answers[self._slice(index)]

    def _slice(self, index: int) -> slice:
        return slice(index * self.rows_per_request, (index + 1) * self.rows_per_request)


Question = tuple[Endpoint, int]
"""An endpoint and the number of a request."""


class Asker:
    """Ask one question at a time and check the answer. A context manager for one thread."""

    def __init__(self) -> None:
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)
        self._channels: dict[int, grpc.Channel] = {}

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()
        for channel in self._channels.values():
            channel.close()

    def ask(self, question: Question) -> None:
        """Ask a question. Raises `WrongAnswer`, or one of `NO_ANSWER` where no answer comes."""
        endpoint, index = question
        request = endpoint.request(index)
        if endpoint.dialect.grpc:
            body, headers = self._call(endpoint.port, request), {}
        else:
            answer = self._http.post(endpoint.url + request.path, content=request.body, headers=dict(request.headers))
            if answer.status_code != httpx.codes.OK:
                raise WrongAnswer(f"{answer.status_code}: {answer.text[:300]}")
            body, headers = answer.content, dict(answer.headers)
        try:
            found = endpoint.dialect.decode(body, headers)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise WrongAnswer(f"cannot decode the answer ({error!r}): {body[:200]!r}") from error
        expected = endpoint.expected(index)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"expected {expected[:3]}, got {found[:3]}")

    def _call(self, port: int, request: Request) -> bytes:
        if port not in self._channels:
            self._channels[port] = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
        answer: bytes = self._channels[port].unary_unary(request.path, as_bytes, as_bytes)(
            request.body, timeout=_TIMEOUT_S
        )
        return answer


def as_bytes(body: bytes) -> bytes:
    """Return the body; in place of gRPC's serializer, because bodies are encoded before the load."""
    return body
