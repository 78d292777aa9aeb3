"""Streams and JSON calls of the prediction service."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator

import pytest

from app.errors import DeadlineExceeded, InvalidInput, InvalidRequest, ModelFailed
from app.serving.prediction.event_stream import EventStream
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelVersion, parse_ref
from app.serving.releases.traffic import Traffic, Variant
from tests.fakes import BATCH, LIMITS, SHADOW, FakeModel, Fakes, columns, make_fakes, total

V1, V2 = ModelVersion("chat", "1"), ModelVersion("chat", "2")


class Endless:
    """A stream without an end; `closed` says that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, body: bytes) -> Generator[str]:
        try:
            for number in itertools.count():
                yield str(number)
        finally:
            self.closed = True


def failing_stream(body: bytes) -> Generator[str]:
    yield "0"
    raise ModelFailed("the model raised")


def no_events(body: bytes) -> Generator[str]:
    yield from ()


def chat(stream: Callable[[bytes], Generator[str]] | None = None) -> FakeModel:
    model = total("x")
    return FakeModel(
        model.predict, columns("x"), invoke=lambda body: b"<" + body + b">", stream=stream, takes_json=True
    )


def request(ref: str = "chat", seconds: float = 10.0) -> PredictionRequest:
    return PredictionRequest(parse_ref(ref), asyncio.get_running_loop().time() + seconds, body=b"{}")


async def begin(fakes: Fakes, number: int) -> tuple[EventStream, list[str]]:
    stream = await fakes.service.stream(request())
    return stream, [await anext(stream) for _ in range(number)]


async def test_a_model_of_json_gets_the_whole_body() -> None:
    fakes = make_fakes({"chat": chat()})
    given = request()
    given.payload = Payload("records", [{"x": 1}])  # the same body, read as rows
    for one in (given, request()):
        prediction = await fakes.service.predict(one)
        assert (prediction.text, prediction.version) == (b"<{}>", V1)
    assert fakes.runner.batches == []
    assert fakes.recorder.predictions == [(V1, 1), (V1, 1)]


async def test_rows_for_a_model_of_json_are_refused() -> None:
    given = request()
    given.body, given.payload = None, Payload("records", [{"x": 1}])
    with pytest.raises(InvalidInput, match="POST the object to /invocations/chat"):
        await make_fakes({"chat": chat()}).service.predict(given)


async def test_events_are_counted_when_the_stream_ends() -> None:
    endless = Endless()
    fakes = make_fakes({"chat": chat(endless)})
    stream, events = await begin(fakes, 3)
    assert events == ["0", "1", "2"]
    assert fakes.recorder.streams == [(V1, None)]
    assert fakes.recorder.predictions == []
    await stream.aclose()
    await stream.aclose()
    assert endless.closed
    assert fakes.recorder.streams == [(V1, None), (V1, 3)]
    assert fakes.recorder.predictions == [(V1, 1)]


async def test_a_stream_is_admitted_until_its_first_event() -> None:
    fakes = make_fakes({"chat": chat(Endless())})
    stream, _ = await begin(fakes, 1)
    admission = fakes.service.admission
    assert (admission.requests, admission.rows, admission.nbytes) == (0, 0, 0)
    await stream.aclose()


async def test_a_stream_may_have_no_events() -> None:
    fakes = make_fakes({"chat": chat(no_events)})
    stream = await fakes.service.stream(request())
    assert [event async for event in stream] == []
    assert fakes.recorder.streams == [(V1, None), (V1, 0)]


async def test_the_deadline_is_that_of_the_first_event() -> None:
    endless = Endless()
    fakes = make_fakes({"chat": chat(endless)})
    await fakes.service.model(parse_ref("chat"))
    fakes.runner.delay_s = 0.2
    with pytest.raises(DeadlineExceeded):
        await fakes.service.stream(request(seconds=0.05))
    assert endless.closed
    assert fakes.recorder.failures == [("chat", "deadline_exceeded")]
    stream = await fakes.service.stream(request(seconds=0.3))
    assert [await anext(stream) for _ in range(3)] == ["0", "1", "2"]  # 0.6 seconds
    await stream.aclose()


async def test_a_stream_that_pauses_too_long_ends() -> None:
    endless = Endless()
    fakes = make_fakes({"chat": chat(endless)})
    service = PredictionService(
        fakes.directory, None, fakes.recorder, limits=LIMITS, batch=BATCH, shadow=SHADOW, stream_idle_s=0.05
    )
    stream = await service.stream(request())
    await anext(stream)
    fakes.runner.delay_s = 60
    with pytest.raises(DeadlineExceeded, match=r"no event for 0\.05 s"):
        await anext(stream)
    assert endless.closed
    assert fakes.recorder.failures == [("chat", "deadline_exceeded")]
    assert fakes.recorder.predictions == []


async def test_an_error_after_the_first_event_is_counted() -> None:
    fakes = make_fakes({"chat": chat(failing_stream)})
    stream, _ = await begin(fakes, 1)
    with pytest.raises(ModelFailed):
        await anext(stream)
    await stream.aclose()
    assert fakes.recorder.failures == [("chat", "model_failed")]
    assert fakes.recorder.streams == [(V1, None), (V1, 1)]
    assert fakes.recorder.predictions == []


async def test_a_model_without_a_stream_is_refused() -> None:
    fakes = make_fakes({"chat": chat(), "rows": total("x")})
    for ref in ("chat", "rows"):
        with pytest.raises(InvalidRequest, match=f"{ref}/versions/1 cannot stream"):
            await fakes.service.stream(request(ref))


async def test_streams_and_calls_follow_the_traffic_split() -> None:
    fakes = make_fakes({"chat/versions/1": chat(Endless()), "chat/versions/2": chat(Endless())})
    fakes.directory.traffics["chat"] = Traffic((Variant("next", "2", 100.0),), shadow=Variant("champion", "1"))
    prediction = await fakes.service.predict(request())
    stream, _ = await begin(fakes, 1)
    await stream.aclose()
    assert (prediction.version, stream.version) == (V2, V2)
    assert fakes.recorder.divisions == [(V2, None), (V2, None)]
    assert fakes.recorder.shadows == []
    assert fakes.recorder.drops == []
