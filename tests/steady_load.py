"""Predictions of `tests.numbered` at a steady rate in every dialect, and the outcome of each.

Callers do not wait for each other unless all connections are in use, keep these, and never retry, so every failure
shows.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import httpx

from app.oip import inference_pb2 as pb
from tests.grpc_stub import make_stub
from tests.numbered import STEP, Said, decode
from tests.platform import URL

_PATIENCE_S = 10.0
"""Timeout of a request in seconds: callers do not wait for a part that restarts."""
_CONNECTIONS = 64
_ENOUGH = 40
"""Successive answers that show a new state: some of each dialect and of each replica."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one request. Times are `time.monotonic`.

    Attributes:
        version: the version in the header or metadata.
        said: the content of the prediction.
        error: why the request failed.
    """

    ref: str
    dialect: str
    sent: float
    done: float
    version: str | None = None
    said: Said | None = None
    error: str | None = None


class _Streak:
    """Latest answers of one reference that came from the same version."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.since = 0.0
        self._count = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.version != self.version:
            self.version, self.since, self._count = outcome.version, outcome.done, 0
        self._count += 1

    def count(self, version: str) -> int:
        return self._count if self.version == version else 0


class SteadyLoad:
    """Sends requests while the context is entered; leaving it waits for all answers.

    Args:
        refs: references to call in turn: ``name`` or ``name@alias``.
        per_s: requests a second.
        loads: folder in which loads of the versions are held. The load lets each of them end once every request is
            answered that was under way when it began, so that a request that waits for a load is known from a slow one.
    """

    def __init__(self, refs: Sequence[str], per_s: float = 100.0, loads: Path | None = None) -> None:
        self._refs = refs
        self._loads = loads
        self._pause_s = 1 / per_s
        self._under_way: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Condition()
        self._lately = {ref: _Streak() for ref in refs}
        self.outcomes: list[Outcome] = []

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self._http = httpx.AsyncClient(base_url=URL, limits=limits, timeout=None)
        self._channel = grpc.aio.insecure_channel("127.0.0.1:9000", options=[("grpc.enable_retries", 0)])
        self._stub = make_stub(self._channel)
        self._dialects: list[tuple[str, Callable[[str, float], Awaitable[tuple[str, float]]]]] = [
            ("/serve", self._legacy),
            ("v1", self._v1),
            ("v2", self._v2),
            ("mlflow", self._mlflow),
            ("grpc", self._grpc),
        ]
        self._calling = asyncio.create_task(self._call())
        if self._loads is not None:
            self._loads.mkdir(exist_ok=True)
            self._releasing = asyncio.create_task(self._release_loads(self._loads))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._calling.cancel()
        with suppress(asyncio.CancelledError):
            await self._calling
        await asyncio.gather(*self._under_way)
        if self._loads is not None:
            self._releasing.cancel()
            with suppress(asyncio.CancelledError):
                await self._releasing
            shutil.rmtree(self._loads, ignore_errors=True)  # a load may begin meanwhile
        await self._http.aclose()
        await self._channel.close()

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet."""
        return len(self._under_way)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    async def until(self, ref: str, version: str, *, within_s: float) -> float:
        """Wait until only one version answers a reference; return when its first answer came."""
        async with asyncio.timeout(within_s), self._answered:
            await self._answered.wait_for(lambda: self._lately[ref].count(version) >= _ENOUGH)
        return self._lately[ref].since

    async def _call(self) -> None:
        number = 0
        due = time.monotonic()
        while True:
            while len(self._under_way) >= _CONNECTIONS:
                await asyncio.wait([*self._under_way], return_when=asyncio.FIRST_COMPLETED)
            dialect, call = self._dialects[number % len(self._dialects)]
            ref = self._refs[number // len(self._dialects) % len(self._refs)]
            task = asyncio.create_task(self._one(ref, dialect, call, float(number % STEP)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number += 1
            due = max(due + self._pause_s, time.monotonic())  # what a stall has missed is not sent all at once
            await asyncio.sleep(due - time.monotonic())

    async def _release_loads(self, folder: Path) -> None:
        async def release(mark: str) -> None:
            if under_way := [*self._under_way]:
                await asyncio.wait(under_way)
            with suppress(FileNotFoundError):
                os.unlink(folder / mark)

        found: dict[str, asyncio.Task[None]] = {}
        while True:
            found |= {mark: asyncio.create_task(release(mark)) for mark in os.listdir(folder) if mark not in found}
            await asyncio.sleep(0.01)

    async def _one(
        self, ref: str, dialect: str, call: Callable[[str, float], Awaitable[tuple[str, float]]], x: float
    ) -> None:
        sent = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                version, answer = await call(ref, x)
            outcome = Outcome(ref, dialect, sent, time.monotonic(), version, decode(answer, x))
        except (httpx.HTTPError, grpc.aio.AioRpcError, AssertionError, TimeoutError) as error:
            outcome = Outcome(ref, dialect, sent, time.monotonic(), error=f"{type(error).__name__}: {error}"[:500])
        self.outcomes.append(outcome)
        self._lately[ref].add(outcome)
        async with self._answered:
            self._answered.notify_all()

    async def _post(self, path: str, body: Any) -> tuple[str, Any]:
        response = await self._http.post(path, json=body)
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        return response.headers["x-model-version"], response.json()

    async def _legacy(self, ref: str, x: float) -> tuple[str, float]:
        name, _, alias = ref.partition("@")
        body = {"model_name": name, "data": _row(x), **({"alias": alias} if alias else {})}
        version, answer = await self._post("/serve", body)
        assert answer["model_version"] == version
        return version, answer["prediction"][0]

    async def _v1(self, ref: str, x: float) -> tuple[str, float]:
        version, answer = await self._post(f"/v1/models/{ref}:predict", {"instances": [_row(x)]})
        assert answer["model_version"] == version
        return version, answer["predictions"][0]

    async def _v2(self, ref: str, x: float) -> tuple[str, float]:
        inputs = [{"name": name, "datatype": "FP64", "shape": [1], "data": [value]} for name, value in _row(x).items()]
        version, answer = await self._post(f"/v2/models/{ref}/infer", {"inputs": inputs})
        assert answer["model_version"] == version
        return version, answer["outputs"][0]["data"][0]

    async def _mlflow(self, ref: str, x: float) -> tuple[str, float]:
        version, answer = await self._post(f"/invocations/{ref}", {"dataframe_records": [_row(x)]})
        return version, answer["predictions"][0]

    async def _grpc(self, ref: str, x: float) -> tuple[str, float]:
        message = pb.ModelInferRequest(model_name=ref)
        for name, value in _row(x).items():
            message.inputs.add(name=name, datatype="FP64", shape=[1]).contents.fp64_contents.append(value)
        call = self._stub.ModelInfer(message)
        answer = await call
        trailing = dict(await call.trailing_metadata())
        assert trailing["x-model-version"] == answer.model_version
        return answer.model_version, answer.outputs[0].contents.fp64_contents[0]


def _row(x: float) -> dict[str, float]:
    return {"x": x, "sent": time.time()}


def told(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Errors and how often they came, for messages."""
    return Counter(f"{outcome.dialect}: {outcome.error}" for outcome in outcomes if outcome.error is not None)
