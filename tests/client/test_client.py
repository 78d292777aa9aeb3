import asyncio
import inspect
import json
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import httpx
import numpy as np
import pytest

from app.errors import ModelUnavailable
from app.serving.releases.traffic import Traffic, Variant
from ml_serve_client import (
    ApiError,
    AsyncClient,
    Batching,
    Client,
    ClientError,
    ConnectionFailed,
    LiveVersion,
    Model,
    ModelVersion,
    NoResponse,
    Part,
    VersionState,
)
from tests.fakes import FakeFeatureStore, FakeModel, Fakes, columns, failing, make_fakes, tensor, total
from tests.server import Server

MIXED = "a price-hour? 100 é #1"  # what a name may have and a path would trip over

FEATURES = FakeFeatureStore(
    {"daily": {"oil": {"a": 1.0, "b": 2.0}, "gas": {"a": 3.0, "b": 4.0}}}, services={"daily_service": "daily"}
)


def echo(*names: str, type: str = "double") -> FakeModel:
    """A model that answers its first column."""
    return FakeModel(lambda batch: tensor(batch.arrays[0]), columns(*names, type=type))


@pytest.fixture
def fakes() -> Fakes:
    scaled = FakeModel(
        lambda batch: tensor(batch.arrays[0] * json.loads(batch.layout.params or '{"factor": 1}')["factor"]),
        columns("a"),
        params=[{"name": "factor", "type": "double", "default": 1.0, "shape": None}],
    )
    return make_fakes(
        {
            "sum": total("a", "b"),
            "sum/versions/2": total("a", "b", offset=100),
            MIXED: total("a"),
            "when": echo("t", type="datetime"),
            "raw": echo("x", type="binary"),
            "count": echo("n", type="long"),
            "scaled": scaled,
            "free": FakeModel(lambda batch: tensor(batch.arrays[0].sum(axis=1))),
            "broken": failing(RuntimeError("secret"), "a"),
            "unloadable": FakeModel(
                lambda batch: tensor(np.zeros(1)), error=ModelUnavailable("its library is missing")
            ),
        },
        aliases={"sum": {"champion": "1", "challenger": "2"}},
        features=FEATURES,
    )


@pytest.fixture
def client(fakes: Fakes) -> AsyncClient:
    return AsyncClient("http://gateway", transport=httpx.ASGITransport(fakes.app))


def answering(status: int, body: bytes | dict[str, Any], **headers: str) -> Client:
    """A client of a server that answers everything alike."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Client(transport=httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers=headers)))


def sent(base_url: str = "http://gateway", **options: Any) -> tuple[Client, list[httpx.Request]]:
    """A client, and the list of the requests that it will have sent."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"predictions": [], "model_name": "m", "model_version": "1"})

    return Client(base_url, transport=httpx.MockTransport(handle), **options), requests


# Predictions


async def test_a_row_is_an_object_of_columns(client: AsyncClient) -> None:
    prediction = await client.predict("sum", {"a": 1, "b": 2.5})
    assert prediction.predictions == [3.5]
    assert (prediction.model, prediction.version) == ("sum", "1")
    assert prediction.features is None
    assert prediction.request_id


async def test_many_rows_are_a_list(client: AsyncClient) -> None:
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert (await client.predict("sum", rows)).predictions == [3, 7]


async def test_rows_may_be_lists_for_a_model_that_takes_an_array(client: AsyncClient) -> None:
    assert (await client.predict("free", [[1, 2], [3, 4]])).predictions == [3, 7]


async def test_version_and_alias_are_arguments_or_in_the_reference(client: AsyncClient) -> None:
    row = {"a": 1, "b": 2}
    for call in (
        client.predict("sum", row, version=2),
        client.predict("sum/versions/2", row),
        client.predict("sum", row, alias="challenger"),
        client.predict("sum@challenger", row),
    ):
        assert (await call).version == "2"


async def test_a_version_and_an_alias_together_are_refused(client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="not both"):
        await client.predict("sum", {}, version=1, alias="champion")
    with pytest.raises(ApiError, match="no registered model 'sum@champion"):
        await client.predict("sum@champion", {}, version=1)


async def test_a_name_is_percent_encoded(client: AsyncClient) -> None:
    assert (await client.predict(MIXED, {"a": 1})).model == MIXED
    assert (await client.predict(MIXED, {"a": 1}, version=1)).model == MIXED
    assert (await client.model(MIXED)).name == MIXED


def test_versions_and_aliases_stay_readable_in_the_path() -> None:
    client, requests = sent("https://api.example.com/ml/serve")
    client.predict("a b", {}, version=3)
    client.predict("a b", {}, alias="champion")
    client.predict("../../livez", {})
    assert [request.url.raw_path for request in requests] == [
        b"/ml/serve/v1/models/a%20b/versions/3:predict",
        b"/ml/serve/v1/models/a%20b@champion:predict",
        b"/ml/serve/v1/models/..%2F..%2Flivez:predict",
    ]


async def test_numpy_values_dates_and_bytes_become_json(client: AsyncClient) -> None:
    assert (await client.predict("count", {"n": np.int64(2**62 + 1)})).predictions == [2**62 + 1]
    assert (await client.predict("raw", {"x": b"\x00\xff"})).predictions == ["AP8="]
    for value in (date(2026, 1, 2), datetime(2026, 1, 2), np.datetime64("2026-01-02T00:00:00")):  # noqa: DTZ001
        (answer,) = (await client.predict("when", {"t": value})).predictions
        assert answer.startswith("2026-01-02T00:00:00")


async def test_a_value_without_json_form_is_refused_before_sending(client: AsyncClient, fakes: Fakes) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        await client.predict("sum", {"a": float("nan"), "b": 1})
    with pytest.raises(TypeError, match="type object cannot be sent"):
        await client.predict("sum", {"a": object(), "b": 1})
    assert not fakes.runner.batches


async def test_parameters_reach_the_model(client: AsyncClient) -> None:
    assert (await client.predict("scaled", {"a": 2}, params={"factor": 10})).predictions == [20]


async def test_a_session_sticks_to_one_version_of_a_traffic_split(client: AsyncClient, fakes: Fakes) -> None:
    split = Traffic((Variant("champion", "1", 50.0), Variant("challenger", "2", 50.0)))
    fakes.directory.traffics["sum"] = split
    row, columns, entities = {"a": 1, "b": 2}, {"a": [1], "b": [2]}, [{"id": "oil"}]
    array = np.array([[1.0, 2.0]])
    for n in range(8):
        session = f"user {n}"
        answers = [
            await client.predict("sum", row, session=session),
            await client.predict_inputs("sum", columns, session=session),
            await client.predict_entities("sum", entities, feature_view="daily", session=session),
            await client.predict("sum", array, session=session),
            await client.infer("sum", columns, session=session),
            await client.infer("sum", columns, session=session, binary=False),
        ]
        assert {answer.version for answer in answers} == {split.choose("sum", session)}
    with pytest.raises(ApiError) as caught:
        await client.predict("sum", {"a": "x"}, session="user 1")
    assert caught.value.status == 400


@pytest.mark.parametrize("session", ["", " ", " a", "a\n", "a\r\nx-admin: 1", "é", "a\tb"])
def test_a_session_that_is_no_header_value_is_refused(session: str) -> None:
    client, requests = sent()
    with pytest.raises(ValueError, match="the session"):
        client.predict("m", {}, session=session)
    with pytest.raises(ValueError, match="the session"):
        client.infer("m", {"a": [1.0]}, session=session)
    assert not requests


async def test_entities_are_predicted_with_columns_of_the_store(client: AsyncClient) -> None:
    prediction = await client.predict_entities("sum", [{"id": "oil"}, {"id": "gas"}], feature_view="daily")
    assert prediction.predictions == [3, 7]
    assert prediction.features == {"a": [1, 3], "b": [2, 4]}


async def test_overrides_replace_columns_of_the_feature_store(client: AsyncClient) -> None:
    prediction = await client.predict_entities(
        "sum", [{"id": "oil"}], feature_service="daily_service", overrides={"b": 10}, version=2
    )
    assert prediction.predictions == [111]


async def test_the_gateway_keeps_the_deadline(client: AsyncClient, fakes: Fakes) -> None:
    fakes.runner.delay_s = 5
    with pytest.raises(ApiError) as caught:
        await client.predict("sum", {"a": 1, "b": 2}, timeout=0.1)
    assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")


def test_the_client_waits_a_little_longer_than_the_deadline() -> None:
    client, requests = sent(timeout=7)
    client.predict("m", {}, timeout=2.5)
    client.predict("m", {})
    with_deadline, without = requests
    assert with_deadline.headers["x-request-timeout-seconds"] == "2.5"
    assert 2.5 < with_deadline.extensions["timeout"]["read"] < 10
    assert "x-request-timeout-seconds" not in without.headers
    assert without.extensions["timeout"]["read"] == 7


def test_the_api_key_is_sent_with_every_request() -> None:
    client, requests = sent(api_key="mls_a_b")
    client.predict("m", {})
    assert requests[0].headers["authorization"] == "Bearer mls_a_b"
    for wrong in ("a b", "é", "a\nb"):
        with pytest.raises(ValueError, match="not printable ASCII") as caught:
            Client(api_key=wrong)
        assert wrong not in str(caught.value)


def test_headers_are_sent_with_every_request() -> None:
    client, requests = sent(headers={"apikey": "k"})
    client.predict("m", {})
    assert requests[0].headers["apikey"] == "k"


# Models and the platform


async def test_models_are_listed(client: AsyncClient, fakes: Fakes) -> None:
    fakes.manager.desired["sum"] = {"champion": "2"}
    found = {model.name: model for model in await client.models()}
    cold = ModelVersion("cold", 0, 0, 0.0, None)
    assert found["sum"] == Model(
        name="sum",
        default="1",
        aliases={"champion": "1", "challenger": "2"},
        desired={"champion": "2"},
        pool="default",
        versions={"1": cold, "2": cold},
        live={
            alias: LiveVersion(version, None, "1970-01-01T00:00:00.000+00:00", "it was the first that was known")
            for alias, version in (("champion", "1"), ("challenger", "2"))
        },
    )
    assert await client.model("sum") == found["sum"]


def test_results_of_older_and_newer_gateways_are_read() -> None:
    version = {"state": "ready", "replicas": 1, "bytes": 2, "load_ms": 3.0, "new": True}
    model = {"name": "m", "default": None, "aliases": {}, "desired": {}, "pool": "p", "versions": {"1": version}}
    (found,) = answering(200, {"models": [{**model, "new": {"key": [1]}}]}).models()
    assert found == Model("m", None, {}, {}, "p", {"1": ModelVersion("ready", 1, 2, 3.0, None)})
    with pytest.raises(ApiError, match="does not answer as an ml-serve gateway"):
        answering(200, {"models": [{**model, "versions": {"1": {"state": "ready"}}}]}).models()


async def test_a_model_is_loaded_and_unloaded(client: AsyncClient) -> None:
    assert await client.load("sum/versions/2") == VersionState("sum", "2", "ready")
    assert (await client.model("sum")).versions["2"] == ModelVersion(
        "ready", 1, 1_000_000, 1.0, None, Batching(row_wise=True, basis="proven")
    )
    assert await client.unload("sum@challenger") == VersionState("sum", "2", "unloaded")
    assert (await client.model("sum")).versions["2"].state == "cold"


async def test_a_load_that_fails_says_why(client: AsyncClient) -> None:
    with pytest.raises(ApiError, match="its library is missing") as caught:
        await client.load("unloadable", timeout=5)
    assert (caught.value.status, caught.value.code) == (503, "model_unavailable")
    assert (await client.model("unloadable")).versions["1"].error == "its library is missing"


async def test_health_is_read_from_200_and_503(client: AsyncClient, fakes: Fakes) -> None:
    health = await client.health()
    assert (health.status, health.ready) == ("ok", True)
    assert health.parts["pools"] == Part("ok", {})
    fakes.manager.parts["pools"] = {"status": "unavailable", "reason": {"default": "no replica"}}
    health = await client.health()
    assert health.status == "unavailable"
    assert health.parts["pools"] == Part("unavailable", {"reason": {"default": "no replica"}})


async def test_ready_is_a_truth_value(client: AsyncClient, fakes: Fakes) -> None:
    assert await client.ready() is True
    fakes.manager.ready = False
    assert await client.ready() is False


def test_nothing_is_ready_while_no_replica_is_up() -> None:
    assert answering(500, b"Internal Server Error").ready() is False
    with pytest.raises(ApiError):
        answering(404, b"not here").ready()


async def test_status_has_the_memory_of_each_replica(client: AsyncClient, fakes: Fakes) -> None:
    pool = {"replica": "p1", "deployment": "ModelPool", "rss_bytes": 2, "models": 3, "model_bytes": 4, "evictions": 5}
    fakes.manager.replicas.append(pool)
    gateway, hosting = await client.status()
    assert (gateway.replica, gateway.deployment, gateway.rss_bytes, gateway.models) == (
        "g1", "Gateway", 150_000_000, None,
    )  # fmt: skip
    assert (hosting.models, hosting.model_bytes, hosting.evictions) == (3, 4, 5)


# Errors


async def test_an_error_has_every_field_of_its_body(client: AsyncClient) -> None:
    with pytest.raises(ApiError) as caught:
        await client.predict("sum", [{"a": 1, "b": 2}, {"a": 1, "b": "x"}])
    error = caught.value
    assert (error.status, error.code) == (400, "invalid_input")
    assert error.details["column"] == "b"
    assert error.details["row"] == 1
    assert error.message in str(error)
    assert error.request_id is not None
    assert error.request_id in str(error)


async def test_an_unknown_model_is_an_error(client: AsyncClient) -> None:
    with pytest.raises(ApiError) as caught:
        await client.model("nope")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


async def test_the_error_of_a_failing_model_hides_its_message(client: AsyncClient) -> None:
    with pytest.raises(ApiError) as caught:
        await client.predict("broken", {"a": 1})
    assert caught.value.status == 500
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, {"error": "bad", "code": "invalid_input", "details": {}, "request_id": "r"}, "invalid_input", "bad"),
        (400, {"status": "error", "error": {"code": "too_large", "message": "big"}}, "too_large", "big"),
        (404, {"error": "no such model"}, "http_404", "no such model"),
        (400, {"error_code": "BAD_REQUEST", "message": "no inputs"}, "BAD_REQUEST", "no inputs"),
        (401, {"message": "No API key found in request", "request_id": "k"}, "http_401", "No API key found in request"),
        (422, {"detail": "wrong"}, "http_422", "wrong"),
        (500, b"Internal Server Error", "http_500", "a server before the gateway answered: Internal Server Error"),
        (503, b"<html><body><h1>503</h1>\nbusy</body>", "http_503", "a server before the gateway answered: 503 busy"),
        (502, b"", "http_502", "a server before the gateway answered: 502 Bad Gateway"),
        (307, b"", "http_307", "a server before the gateway answered: 307 Temporary Redirect"),
        (500, b"[1]", "http_500", "a server before the gateway answered: [1]"),
        (500, b"\xff\xfe", "http_500", None),
    ],
)
def test_every_kind_of_error_body_is_read(status: int, body: Any, code: str, message: str | None) -> None:
    for call in ("models", "health"):
        with pytest.raises(ApiError) as caught:
            getattr(answering(status, body), call)()
        assert (caught.value.status, caught.value.code) == (status, code)
        assert message is None or caught.value.message == message


def test_the_request_id_may_come_from_the_header() -> None:
    with pytest.raises(ApiError) as caught:
        answering(500, b"oh", **{"x-request-id": "abc"}).models()
    assert caught.value.request_id == "abc"


@pytest.mark.parametrize("body", [b"<html>a web page</html>", b"[]", b'{"models": 3}', b'{"models": [{}]}', b'"text"'])
def test_a_response_of_another_server_names_its_url(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"127\.0\.0\.1:8000/v1/models does not answer as an ml-serve gateway") as caught:
        answering(200, body).models()
    assert caught.value.code == "unexpected_answer"


def test_errors_survive_pickling() -> None:
    for error in (ApiError(400, "code", "message", {"a": 1}, "id"), ConnectionFailed("cannot"), NoResponse("late")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert isinstance(copy, ClientError)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


# The network


@pytest.fixture
def server(fakes: Fakes) -> Iterator[Server]:
    with Server(fakes.app) as server:
        yield server


def test_the_blocking_client_has_the_same_results(server: Server) -> None:
    with Client(server.url) as client:
        assert client.predict("sum", {"a": 1, "b": 2}).predictions == [3]
        assert client.predict_entities("sum", [{"id": "oil"}], feature_view="daily").predictions == [3]
        assert client.load("sum").state == "ready"
        assert client.model("sum").versions["1"].replicas == 1
        assert len(client.models()) == 9
        assert client.unload("sum").state == "unloaded"
        assert client.health().status == "ok"
        assert client.ready()
        assert client.status()[0].deployment == "Gateway"
        with pytest.raises(ApiError):
            client.model("nope")


async def test_the_async_client_sends_calls_concurrently(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        calls = (client.predict("sum", {"a": n, "b": 1}) for n in range(20))
        assert [p.predictions for p in await asyncio.gather(*calls)] == [[n + 1] for n in range(20)]


def test_a_refused_connection_names_the_url_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        client = Client(f"http://user:secret@127.0.0.1:{port}")
        with pytest.raises(
            ConnectionFailed, match=rf"cannot connect to http://\*\*\*@127\.0\.0\.1:{port}: .*refused"
        ) as e:
            client.models()
    assert "secret" not in str(e.value)


async def test_the_async_client_raises_the_same_connection_error() -> None:
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(ConnectionFailed, match=r"cannot connect to http://127\.0\.0\.1:1"):
            await client.ready()


def test_a_response_after_the_timeout_is_an_error(server: Server, fakes: Fakes) -> None:
    fakes.runner.delay_s = 5
    with Client(server.url, timeout=0.1) as client, pytest.raises(NoResponse, match="did not answer in time"):
        client.predict("sum", {"a": 1, "b": 2})


def test_a_broken_connection_is_an_error() -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})

    with Server(cut) as server, Client(server.url) as client, pytest.raises(NoResponse, match="broke"):
        client.models()


# The clients themselves


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "", "http://u:secret@h:port"])
def test_an_invalid_base_url_is_refused(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="URL") as caught:
            kind(url)
        assert "secret" not in str(caught.value)


async def test_repr_masks_passwords() -> None:
    async with AsyncClient("https://me:secret@h/ml/serve") as client:
        assert repr(client) == "AsyncClient('https://***@h/ml/serve')"
    with Client("https://token@h") as blocking:
        assert repr(blocking) == "Client('https://***@h')"
        assert blocking.url == "https://***@h"


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, str]:
        return {
            name: str(inspect.signature(member))
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    assert methods(Client).keys() == methods(AsyncClient).keys()
    shared = methods(Client).keys() - {"close"}
    assert {name: methods(Client)[name] for name in shared} == {name: methods(AsyncClient)[name] for name in shared}
    assert all(getattr(Client, name).__doc__ for name in shared)
    assert inspect.signature(Client.predict).parameters["timeout"].default is None


def test_the_client_imports_nothing_of_the_server() -> None:
    script = "import sys, ml_serve_client; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    for name in ("numpy", "pandas", "fastapi", "ray", "mlflow", "feast"):
        assert f"'{name}'" not in names


def test_times_keep_their_zone() -> None:
    client, requests = sent()
    client.predict("m", [{"t": datetime(2026, 1, 2, 3, tzinfo=UTC)}])
    assert json.loads(requests[0].content) == {"instances": [{"t": "2026-01-02T03:00:00+00:00"}]}
