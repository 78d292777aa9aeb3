"""The tracer and a real collector over HTTP."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from app.adapters.traces import export, make_tracer
from app.adapters.traces.tracer import OtlpTracer
from app.errors import InvalidInput
from app.serving.observation import resumed
from app.settings import Settings, TraceSettings
from tests.collector import Collector, collecting
from tests.ports import free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SERVER, CLIENT, INTERNAL = 2, 3, 1


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def tracer_of(url: str, ratio: float = 1.0) -> OtlpTracer:
    return OtlpTracer(TraceSettings(endpoint=url, sample_ratio=ratio), "ml-serve-gateway", "g1")


def dropped() -> float:
    value = REGISTRY.get_sample_value("ml_serve_dropped_spans_total")
    return value if value is not None else 0.0


async def test_spans_of_a_request_arrive(collector: Collector) -> None:
    tracer = tracer_of(f"{collector.url}/")
    span = tracer.serve("POST /serve", None, None)
    assert span is not None
    span.child("queue").end({})
    call = span.child("call")
    call.end({"ml_serve.batch_rows": 7, "none": None}, "model_failed")
    span.end({"http.route": "/serve"}, "invalid_input", is_fault=False)
    await tracer.close()
    queue, called, served = collector.spans
    assert {one.trace for one in collector.spans} == {span.trace_id}
    assert (served.name, served.parent, served.kind, served.service) == ("POST /serve", "", SERVER, "ml-serve-gateway")
    assert (queue.parent, queue.kind, queue.failed) == (served.id, INTERNAL, False)
    assert (called.parent, called.kind, called.failed) == (served.id, CLIENT, True)
    assert called.attributes == {"ml_serve.batch_rows": 7, "error.type": "model_failed"}
    assert (served.failed, served.attributes) == (False, {"http.route": "/serve", "error.type": "invalid_input"})
    assert call.carrier == {"traceparent": f"00-{called.trace}-{called.id}-{call.carrier['traceparent'][-2:]}"}


async def test_the_trace_of_the_caller_goes_on(collector: Collector) -> None:
    tracer = tracer_of(collector.url, ratio=0)
    span = tracer.serve("x", SAMPLED, "vendor=1")
    assert span is not None
    assert span.carrier["tracestate"] == "vendor=1"
    assert span.carrier["traceparent"].startswith(f"00-{TRACE}-")
    span.end({})
    await tracer.close()
    (sent,) = collector.spans
    assert (sent.trace, sent.parent, sent.state) == (TRACE, PARENT, "vendor=1")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_the_caller_decides_whether_its_trace_is_sampled(collector: Collector, ratio: float) -> None:
    tracer = tracer_of(collector.url, ratio)
    assert tracer.serve("x", NOT_SAMPLED, None) is None
    assert tracer.serve("x", SAMPLED, None) is not None
    await tracer.close()


@pytest.mark.parametrize(
    "given",
    ["", "x", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"{SAMPLED}-more", SAMPLED * 50],
)
async def test_a_wrong_trace_context_is_none(
    collector: Collector, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    never, always = tracer_of(collector.url, ratio=0), tracer_of(collector.url)
    assert never.serve("x", given, "a=1") is None
    span = always.serve("x", given, "=,=")
    assert span is not None
    assert span.trace_id != TRACE
    await never.close()
    await always.close()
    assert caplog.records == []


async def test_the_ratio_is_a_share_of_the_requests(collector: Collector) -> None:
    tracer = tracer_of(collector.url, ratio=0.1)
    found = [tracer.serve("x", None, None) for _ in range(5000)]
    assert 350 < sum(span is not None for span in found) < 650
    await tracer.close()


async def test_each_parent_gets_a_span_in_its_own_trace(collector: Collector) -> None:
    tracer = tracer_of(collector.url, ratio=0)
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    parents = [{"traceparent": SAMPLED}, {"traceparent": other}]
    with pytest.raises(InvalidInput), resumed(tracer, "predict", parents, {}):
        raise InvalidInput("row 3 is 4711")
    await tracer.close()
    assert [(one.trace, one.parent, one.failed) for one in collector.spans] == [
        (TRACE, PARENT, True),
        ("1" * 32, "2" * 16, True),
    ]
    assert [one.attributes for one in collector.spans] == [{"error.type": "invalid_input"}] * 2


async def test_a_dead_collector_costs_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(export, "_EXPORT_S", 0.2)
    monkeypatch.setattr(export, "_DELAY_S", 0.01)
    before = dropped()
    tracer = tracer_of(f"http://user:secret@127.0.0.1:{free_port()}")
    started = time.perf_counter()
    for number in range(3):
        for _ in range(100):
            span = tracer.serve("x", None, None)
            assert span is not None
            span.end({})
        deadline = time.monotonic() + 20
        while dropped() - before < 100 * (number + 1):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    assert time.perf_counter() - started < 20
    await tracer.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "secret" not in record.getMessage()


async def test_spans_beyond_the_queue_are_dropped_and_counted(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_QUEUED", 8)
    monkeypatch.setattr(export, "_BATCH", 4)
    collector.delay_s = 0.5
    before, tracer = dropped(), tracer_of(collector.url)
    slowest = 0.0
    for _ in range(20):
        started = time.perf_counter()
        span = tracer.serve("x", None, None)
        assert span is not None
        span.end({})
        slowest = max(slowest, time.perf_counter() - started)
    assert dropped() - before == 12
    assert slowest < 0.4
    await tracer.close()
    assert len(collector.spans) == 8
    assert caplog.records == []


async def test_it_tells_when_the_collector_answers_again(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "app")
    monkeypatch.setattr(export, "_DELAY_S", 0.01)
    tracer = tracer_of(collector.url)
    for status, requests in ((400, 1), (200, 2)):
        collector.status = status
        span = tracer.serve("x", None, None)
        assert span is not None
        span.end({})
        await asyncio.to_thread(collector.wait, lambda requests=requests: collector.requests >= requests)  # type: ignore[misc]
    await tracer.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "lost_spans=1" in caplog.text


async def test_the_end_does_not_wait_for_a_collector_that_hangs(collector: Collector) -> None:
    collector.delay_s = 30
    tracer = tracer_of(collector.url)
    span = tracer.serve("x", None, None)
    assert span is not None
    span.end({})
    started = time.perf_counter()
    await tracer.close()
    assert time.perf_counter() - started < 3


_OFF = """
import sys
from app.adapters.traces import make_tracer
from app.api import app
from app.settings import Settings
assert make_tracer(Settings(), "x", "y") is None
ours = ("app.adapters.traces.", "opentelemetry.exporter")  # others import the API by themselves
print([name for name in sys.modules if name.startswith(ours)])
"""


def test_nothing_is_imported_without_a_collector() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _OFF]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_the_settings_say_where_the_collector_is(collector: Collector) -> None:
    tracer = make_tracer(Settings(traces={"endpoint": collector.url}), "x", "y")
    assert isinstance(tracer, OtlpTracer)
    await tracer.close()
