"""What is sent again, and when."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from ml_serve_client import ApiError, AsyncClient, Client, ConnectionFailed, NoResponse, Retry
from tests.server import Server

AT_ONCE = Retry(attempts=3, backoff_s=0)


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"predictions": [1], "model_name": "m", "model_version": "1"})


def error(status: int, code: str = "overloaded", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "busy", "code": code}, headers=headers)


def late(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("late", request=request)


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def broken(request: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError("broken", request=request)


class Script:
    """Answers requests one after another; the last answer is repeated. `requests` is what came."""

    def __init__(self, *answers: httpx.Response | Callable[[httpx.Request], httpx.Response]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer if isinstance(answer, httpx.Response) else answer(request)

    def client(self, retry: Retry = AT_ONCE, **options: Any) -> Client:
        return Client("http://gateway", retry=retry, transport=httpx.MockTransport(self), **options)


class Clock:
    """Time that passes only in sleeps; `slept` holds them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


@pytest.mark.parametrize(
    "failure",
    [error(429), error(503, "pool_unavailable"), httpx.Response(503, text="busy"), refused, broken],
    ids=["429", "503", "503 of a load balancer", "refused", "broken"],
)
def test_what_may_pass_is_sent_again(failure: Any) -> None:
    script = Script(failure, failure, ok)
    assert script.client().predict("m", {}).predictions == [1]
    assert len(script.requests) == 3
    assert {request.content for request in script.requests} == {b'{"instances": [{}]}'}


@pytest.mark.parametrize(
    "failure",
    [
        error(400), error(404), error(413), error(500), error(504),
        error(503, "model_unavailable"), error(503, "replica_died"),
    ],
    ids=lambda failure: f"{failure.status_code} {failure.json()['code']}",
)  # fmt: skip
def test_what_lasts_or_does_harm_is_not_sent_again(failure: httpx.Response) -> None:
    script = Script(failure)
    with pytest.raises(ApiError) as caught:
        script.client().predict("m", {})
    assert caught.value.status == failure.status_code
    assert len(script.requests) == 1


def test_the_last_error_is_raised_once_all_attempts_are_made() -> None:
    script = Script(error(503, "unavailable"), refused, error(429))
    with pytest.raises(ApiError, match="busy") as caught:
        script.client().predict("m", {})
    assert caught.value.status == 429
    assert len(script.requests) == 3
    script = Script(refused)
    with pytest.raises(ConnectionFailed, match="cannot connect"):
        script.client(Retry(attempts=5, backoff_s=0)).predict("m", {})
    assert len(script.requests) == 5


def test_one_attempt_switches_it_off(clock: Clock) -> None:
    script = Script(error(429, **{"retry-after": "1"}))
    with pytest.raises(ApiError) as caught:
        script.client(Retry(attempts=1)).predict("m", {})
    assert (len(script.requests), clock.slept) == (1, [])
    assert caught.value.retry_after == 1


def test_the_wait_doubles_and_is_drawn(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", draw)
    script = Script(error(503, "unavailable"))
    with pytest.raises(ApiError):
        script.client(Retry(attempts=5, backoff_s=0.5, max_backoff_s=3)).predict("m", {})
    assert drawn[:4] == [(0, 0.5), (0, 1), (0, 2), (0, 3)]
    assert clock.slept == [0.5, 1, 2, 3]


def test_retry_after_is_kept_in_seconds_and_as_a_date(clock: Clock) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    script = Script(error(429, **{"retry-after": "7"}), error(503, "unavailable", **{"retry-after": date}), ok)
    script.client().predict("m", {})
    first, second = clock.slept
    assert first == 7
    assert 15 < second <= 20


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0), ("", None), ("soon", None), ("-1", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
     ("Thu, 01 Jan 1970 00:00:00 -0000", 0), ("1e3", None)],
)  # fmt: skip
def test_a_retry_after_that_is_odd_is_no_error(header: str, seconds: float | None) -> None:
    with pytest.raises(ApiError) as caught:
        Script(error(429, **{"retry-after": header})).client(Retry(attempts=1)).models()
    assert caught.value.retry_after == seconds


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(clock: Clock) -> None:
    script = Script(error(429, **{"retry-after": "30"}))
    with pytest.raises(ApiError):
        script.client().predict("m", {}, timeout=10)
    with pytest.raises(ApiError):
        script.client(timeout=20).predict("m", {})
    assert (len(script.requests), clock.slept) == (2, [])


def test_each_attempt_is_told_what_is_left_of_the_deadline(clock: Clock) -> None:
    script = Script(error(429, **{"retry-after": "4"}), error(429, **{"retry-after": "5"}), ok)
    script.client().predict("m", {}, timeout=10)
    assert [request.headers["x-request-timeout-seconds"] for request in script.requests] == ["10", "6", "1"]
    waits = [request.extensions["timeout"]["read"] for request in script.requests]
    assert [waits[0] - wait for wait in waits] == [0, 4, 9]


def test_without_a_deadline_the_client_s_own_time_is_for_all_attempts(clock: Clock) -> None:
    script = Script(error(429, **{"retry-after": "4"}), ok)
    script.client(timeout=10).predict("m", {})
    assert [request.extensions["timeout"]["read"] for request in script.requests] == [10, 6]
    assert "x-request-timeout-seconds" not in script.requests[0].headers


def test_an_answer_that_is_late_is_not_asked_for_again(clock: Clock) -> None:
    def late_by_all_of_it(request: httpx.Request) -> httpx.Response:
        clock.now += request.extensions["timeout"]["read"]
        return late(request)

    for timeout in (None, 5.0):
        script = Script(late_by_all_of_it)
        with pytest.raises(NoResponse):
            script.client(timeout=10).predict("m", {}, timeout=timeout)
        assert len(script.requests) == 1


def test_loads_and_unloads_are_repeated_too() -> None:
    loaded = httpx.Response(200, json={"model_name": "m", "model_version": "1", "state": "ready"})
    for call in ("load", "unload"):
        script = Script(broken, loaded)
        assert getattr(script.client(), call)("m").state == "ready"
        assert len(script.requests) == 2


def test_a_health_that_is_bad_is_an_answer() -> None:
    script = Script(httpx.Response(503, json={"status": "unavailable", "ready": False, "parts": {}}))
    assert script.client().health().status == "unavailable"
    assert len(script.requests) == 1


async def test_the_async_client_does_the_same() -> None:
    script = Script(refused, error(429, **{"retry-after": "0"}), ok)
    async with AsyncClient("http://gateway", retry=AT_ONCE, transport=httpx.MockTransport(script)) as client:
        assert (await client.predict("m", {}, timeout=9)).predictions == [1]
    first, *_, last = (float(request.headers["x-request-timeout-seconds"]) for request in script.requests)
    assert len(script.requests) == 3
    assert 0 < last < first == 9
    script = Script(error(503, "model_unavailable"))
    async with AsyncClient("http://gateway", retry=AT_ONCE, transport=httpx.MockTransport(script)) as client:
        with pytest.raises(ApiError):
            await client.load("m")
    assert len(script.requests) == 1


async def test_a_call_that_waits_to_be_sent_again_can_be_cancelled() -> None:
    script = Script(error(429, **{"retry-after": "30"}))
    async with AsyncClient("http://gateway", transport=httpx.MockTransport(script)) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.predict("m", {}), 0.1)
    assert len(script.requests) == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"backoff_s": -1}, {"max_backoff_s": -1}])
def test_a_retry_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


# Over the network


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """An address where nothing listens yet."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()


def test_a_connection_that_breaks_once_is_made_again() -> None:
    requests = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal requests
        requests += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
        broken = requests == 1
        await send({"type": "http.response.body", "body": b"{" if broken else b'{"models":[]}', "more_body": broken})

    with Server(app) as server, Client(server.url) as client:
        assert client.models() == []
    assert requests == 2


def test_nothing_that_listens_is_told_after_all_attempts(address: tuple[str, int]) -> None:
    with (
        Client(f"http://127.0.0.1:{address[1]}", retry=AT_ONCE) as client,
        pytest.raises(ConnectionFailed, match="cannot connect"),
    ):
        client.ready()
