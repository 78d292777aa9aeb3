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
"""Relative; what is asked in JSON has four decimals, so only the order of additions can differ."""
NO_ANSWER = (httpx.HTTPError, grpc.RpcError)
GRPC_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class WrongAnswer(Exception):
    """An answer that is no prediction, or not that of the row that was sent."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how a model is asked.

    Args:
        port: of HTTP, or of gRPC where the dialect is spoken over that.
        name: the model's name in that system.
        data: what it is asked and must answer.
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
        """Different requests that there are."""
        return len(self.data.rows) // self.rows_per_request

    def request(self, index: int) -> Request:
        """The request with the rows of that number."""
        return self.dialect.encode(self.name, self.data.columns, self.data.rows[self._slice(index)])

    def expected(self, index: int) -> Array:
        """What it must be answered."""
        return self.data.answers[self._slice(index)]

    def _slice(self, index: int) -> slice:
        return slice(index * self.rows_per_request, (index + 1) * self.rows_per_request)


Question = tuple[Endpoint, int]
"""An endpoint and the number of a request."""


class Asker:
    """Asks one question at a time and looks at the answer. A context manager; safe in one thread."""

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
        """Raises `WrongAnswer` where the answer is not right, and one of `NO_ANSWER` where none comes."""
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
            raise WrongAnswer(f"not understood ({error!r}): {body[:200]!r}") from error
        expected = endpoint.expected(index)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"{found[:3]} in place of {expected[:3]}")

    def _call(self, port: int, request: Request) -> bytes:
        if port not in self._channels:
            self._channels[port] = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
        answer: bytes = self._channels[port].unary_unary(request.path, as_it_is, as_it_is)(
            request.body, timeout=_TIMEOUT_S
        )
        return answer


def as_it_is(body: bytes) -> bytes:
    """In place of a message's own serializer: bodies are made once, before the load."""
    return body
