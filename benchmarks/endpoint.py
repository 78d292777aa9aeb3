"""`Endpoint`: one model of a running system, asked in one dialect, over HTTP or gRPC."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import grpc
import httpx
import numpy as np

from benchmarks.dialects import Dialect, Request
from benchmarks.models import Array, ModelData

_TIMEOUT_S = 30.0
TOLERANCE = 1e-6
"""Relative; what is asked in JSON has four decimals, so only the order of additions can differ."""
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


class Asker:
    """Asks an endpoint one request at a time and looks at the answer. A context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._http = httpx.Client(base_url=endpoint.url, timeout=_TIMEOUT_S, trust_env=False)
        self._grpc = grpc.insecure_channel(f"127.0.0.1:{endpoint.port}", options=GRPC_OPTIONS)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()
        with suppress(Exception):
            self._grpc.close()

    def ask(self, index: int) -> None:
        """Raises `WrongAnswer` where the answer is not right, `httpx.HTTPError` or `grpc.RpcError` where none comes."""
        request = self._endpoint.request(index)
        if self._endpoint.dialect.grpc:
            body = self._grpc.unary_unary(request.path)(request.body, timeout=_TIMEOUT_S)
            self._compare(index, body, {})
            return
        answer = self._http.post(request.path, content=request.body, headers=dict(request.headers))
        if answer.status_code != httpx.codes.OK:
            raise WrongAnswer(f"{answer.status_code}: {answer.text[:300]}")
        self._compare(index, answer.content, dict(answer.headers))

    def _compare(self, index: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            found = self._endpoint.dialect.decode(body, headers)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise WrongAnswer(f"not understood ({error!r}): {body[:200]!r}") from error
        expected = self._endpoint.expected(index)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"{found[:3]} in place of {expected[:3]}")
