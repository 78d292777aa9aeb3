"""JSON calls and streams to the models of a host."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from app.errors import ModelUnavailable, Overloaded
from app.hosting.json_calls import JsonCalls
from app.hosting.model_host import ModelHost
from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output

V1, V2, V3 = (ModelVersion("chat", number) for number in "123")


class Chat:
    """Answers with its version and the body, and streams without an end."""

    problem = None
    worker = ""

    def __init__(self, version: ModelVersion) -> None:
        self.spec = ModelSpec(*version, flavor="test", nbytes=100, takes_json=True, streams=True)

    def predict(self, batch: Batch) -> Output:
        raise NotImplementedError

    def invoke(self, body: bytes) -> bytes:
        return self.spec.version.encode() + body

    def stream(self, body: bytes) -> Iterator[str]:
        return (f"{self.spec.version}:{number}" for number in itertools.count())


class Loader:
    def load(self, version: ModelVersion) -> Chat:
        if version == V3:
            raise ModelUnavailable("version 3 is broken")
        return Chat(version)

    def build(self, version: ModelVersion) -> None: ...

    def forget(self, name: str) -> None: ...

    def isolate(self, version: ModelVersion, reason: str) -> None: ...

    def isolate_models(self, names: frozenset[str]) -> None: ...

    def reunite(self, version: ModelVersion) -> None: ...


@pytest.fixture
def host() -> ModelHost:
    """A host with room for one model."""
    return ModelHost(Loader(), budget_bytes=100, predict_threads=1)


async def test_calls_load_the_version(host: ModelHost) -> None:
    calls = JsonCalls(host, 2)
    answers = await asyncio.gather(*(calls.invoke(V1, body) for body in (b"{}", b"[]")))
    assert answers == [b"1{}", b"1[]"]
    with pytest.raises(ModelUnavailable):
        await calls.invoke(V3, b"{}")
    with pytest.raises(ModelUnavailable):
        await anext(calls.stream(V3, b"{}"))


async def test_a_version_that_streams_is_not_evicted(host: ModelHost) -> None:
    calls = JsonCalls(host, 2)
    stream = calls.stream(V1, b"{}")
    assert await anext(stream) == "1:0"
    await calls.invoke(V2, b"{}")
    assert host.resident == [V1, V2]
    assert [await anext(stream) for _ in range(2)] == ["1:1", "1:2"]
    await stream.aclose()
    await calls.invoke(V2, b"{}")
    host.release(V2)
    await calls.invoke(V2, b"{}")
    assert host.resident == [V2]


async def test_an_unloaded_version_streams_to_its_end(host: ModelHost) -> None:
    stream = JsonCalls(host, 1).stream(V1, b"{}")
    await anext(stream)
    host.release(V1)
    assert await anext(stream) == "1:1"
    await stream.aclose()


async def test_streams_are_bounded(host: ModelHost) -> None:
    calls = JsonCalls(host, 1)
    stream = calls.stream(V1, b"{}")
    await anext(stream)
    assert calls.busy == 1
    with pytest.raises(Overloaded):
        await anext(calls.stream(V1, b"{}"))
    calls.close()
