"""The running platform as callers meet it: real Ray, real MLflow, real Feast, over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from ml_serve_client import Client, ReplicaUsage
from tests.contract.test_model_parity import CASES, Case, as_json, exact
from tests.platform import DEMO, URL, Platform
from tests.registered import SLOW_S, name_of, registry, tracking
from tests.scrape import scrape

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

ROW = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}


def serve(**body: Any) -> httpx.Response:
    return httpx.post(f"{URL}/serve", json=body, timeout=120)


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def post_all(path: str, bodies: list[Any]) -> list[httpx.Response]:
    limits, headers = httpx.Limits(max_connections=64), {"x-request-timeout-seconds": "110"}  # the first one loads
    async with httpx.AsyncClient(base_url=URL, limits=limits, timeout=120, headers=headers) as client:
        return await asyncio.gather(
            *(
                client.post(path, content=body) if isinstance(body, bytes) else client.post(path, json=body)
                for body in bodies
            )
        )


def pool_replicas() -> list[psutil.Process]:
    title = "ray::ServeReplica:ml-serve:ModelPool"
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith(title)]


def test_only_processes_that_need_pandas_import_it(platform: Platform) -> None:
    imported = {}
    for process in psutil.process_iter(["cmdline"]):
        title = (process.info["cmdline"] or [""])[0]
        if title.startswith("ray::") and "Agent" not in title:
            imported[title.partition(".")[0]] = any("/pandas/" in file.path for file in process.memory_maps())
    expected = {
        "ray::ServeController": False,
        "ray::HAProxyManager": False,
        "ray::ProxyActor": False,
        "ray::ServeReplica:ml-serve:Gateway": False,
        "ray::ServeReplica:ml-serve:Releases": False,
        "ray::ServeReplica:ml-serve:ModelPool-default": True,
    }
    assert expected.items() <= imported.items(), imported


def test_haproxy_reports_no_request_to_python(platform: Platform) -> None:
    """It would send a line in this format to a Python process of Serve, which takes as long as 80 µs."""
    (command,) = (p.info["cmdline"] for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "haproxy")
    assert "format rfc5424" not in Path(command[command.index("-f") + 1]).read_text()


def test_predictions_pass_serves_handling_by(platform: Platform) -> None:
    """Serve adds the id to an answer as its last header."""

    def last(answer: httpx.Response) -> bytes:
        return [name for name, _ in answer.headers.raw if name not in (b"date", b"server")][-1]

    assert last(httpx.get(f"{URL}/v1/models")) == b"x-request-id"
    found = serve(model_name=DEMO, data=ROW)
    assert last(found) == b"content-length"
    assert found.headers["x-request-id"] == found.json()["request_id"]


def test_the_documented_bodies_are_answered(platform: Platform) -> None:
    answer = serve(model_name=DEMO, data=ROW).json()
    assert [round(value, 1) for value in answer["prediction"]] == [78.3]
    assert (answer["status"], answer["model_version"]) == ("success", "1")
    features = serve(
        model_name=DEMO, use_feature_store=True, entity_id="crude_oil_wti", feature_view="commodity_features"
    )
    assert features.json()["prediction"] == answer["prediction"]
    override = serve(
        model_name=DEMO,
        use_feature_store=True,
        entity_id=["crude_oil_wti", "crude_oil_brent"],
        feature_view="commodity_features",
        data=ROW,
    )
    assert override.json()["prediction"] == answer["prediction"] * 2
    loaded = serve(model_name=DEMO, action="load", model_version="2").json()
    assert (loaded["status"], loaded["model_version"], loaded["default_version"]) == ("success", "2", "1")
    assert serve(model_name=DEMO, data=ROW, model_version="2").json()["model_version"] == "2"
    status = serve(model_name=DEMO, action="status").json()["model"]
    assert status["versions"]["2"]["state"] == "ready"
    assert serve(model_name=DEMO, action="unload", model_version="2").json()["status"] == "success"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_predictions_equal_plain_pyfunc(case: Case, platform: Platform) -> None:
    """One by one, and 64 different requests at once."""
    import mlflow

    with tracking(platform.home), warnings.catch_warnings(record=True):
        model = mlflow.pyfunc.load_model(f"models:/{name_of(case)}/1")
    rng = random.Random(case.name)
    requests = []
    for _ in range(64):
        records = [case.row(rng) for _ in range(rng.randint(1, 3))]
        if case.name == "named tensors":
            records = [{**row, "h": records[0]["h"]} for row in records]
        requests.append((records, rng.choice(case.params)))
    bodies = [{"instances": records, "parameters": params} for records, params in requests]
    path = f"/v1/models/{name_of(case)}:predict"
    expected = [as_json(model.predict(case.plain(records), params=params)) for records, params in requests]
    alone = [(await post_all(path, [body]))[0] for body in bodies[:8]]
    assert [answer.status_code for answer in alone] == [200] * 8, alone[0].text
    assert exact([answer.json()["predictions"] for answer in alone]) == exact(expected[:8])
    together = [answer.json()["predictions"] for answer in await post_all(path, bodies)]
    if case.alike:
        assert exact(together) == exact(expected)
    else:
        assert [pytest.approx(value, rel=1e-12) for value in expected] == together


MALFORMED: list[tuple[Any, str]] = [
    (b"{not json", "not valid JSON"),
    ({"data": ROW}, "'model_name'"),
    ({"model_name": DEMO}, "'data'"),
    ({"model_name": DEMO, "data": {**ROW, "exchange_rate": "high"}}, "'exchange_rate'"),
    ({"model_name": DEMO, "data": {"crude_oil_price": 1, "natural_gas_price": 2}}, "'exchange_rate'"),
    ({"model_name": DEMO, "data": {**ROW, "coal": 3}}, "'coal'"),
    ({"model_name": DEMO, "data": [ROW, {**ROW, "crude_oil_price": [1]}]}, "row 1"),
    ({"model_name": DEMO[:-1], "data": ROW}, f"did you mean '{DEMO}'"),
    ({"model_name": DEMO, "model_version": "999", "data": ROW}, "999"),
    (
        {"model_name": DEMO, "use_feature_store": True, "entity_id": "gold", "feature_view": "commodity_features"},
        "gold",
    ),
]


async def test_of_200_requests_the_bad_ones_fail_and_the_good_do_not(platform: Platform) -> None:
    bodies: list[Any] = []
    for n in range(200):
        good = {"model_name": DEMO, "data": {**ROW, "crude_oil_price": float(n)}}
        bodies.append(MALFORMED[n // 3 % 10][0] if n % 3 == 0 else good)
    answers = await post_all("/serve", bodies)
    slope = serve(model_name=DEMO, data=[{**ROW, "crude_oil_price": float(n)} for n in range(200)]).json()["prediction"]
    for n, answer in enumerate(answers):
        if n % 3 == 0:
            assert answer.status_code in (400, 404), answer.text
            assert MALFORMED[n // 3 % 10][1] in answer.json()["error"]["message"]
        else:
            assert answer.status_code == 200, answer.text
            assert answer.json()["prediction"] == pytest.approx([slope[n]], rel=1e-12)


async def test_one_poisonous_request_fails_alone(platform: Platform) -> None:
    bodies = [{"instances": [{"x": float(n)}]} for n in range(64)]
    answers = await post_all("/v1/models/choking:predict", bodies)
    assert [answer.status_code for answer in answers] == [500 if n == 13 else 200 for n in range(64)]
    assert [answer.json()["predictions"] for n, answer in enumerate(answers) if n != 13] == [
        [2.0 * n] for n in range(64) if n != 13
    ]
    fault = answers[13].json()
    assert fault["code"] == "model_failed"
    assert "secret" not in answers[13].text
    assert "Traceback" not in answers[13].text


async def test_a_model_that_answers_fewer_items_is_never_batched(platform: Platform) -> None:
    bodies = [{"instances": [{"x": 1}, {"x": number}]} for number in range(16)]
    answers = await post_all("/v1/models/short:predict", bodies)
    assert [answer.json()["predictions"] for answer in answers] == [[float(number)] for number in range(16)]


def test_a_model_that_cannot_be_loaded_says_so_and_harms_nobody(platform: Platform) -> None:
    for _ in range(2):
        answer = httpx.post(f"{URL}/v1/models/broken:predict", json={"instances": [{"x": 1}]}, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
        assert str(platform.home) not in answer.text
    loaded = serve(model_name="broken", action="load")
    assert (loaded.status_code, loaded.json()["error"]["code"]) == (503, "model_unavailable")
    assert serve(model_name=DEMO, data=ROW).status_code == 200
    assert httpx.get(f"{URL}/readyz", timeout=60).status_code == 200


async def test_a_caller_that_leaves_fails_nobody_in_its_batch(platform: Platform) -> None:
    body = b'{"instances": [{"x": 1}]}'
    (await post_all("/v1/models/slow:predict", [body]))[0].raise_for_status()
    request = b"POST /v1/models/slow:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    # Two calls occupy the version's slots, so that the 64 that follow queue and leave as one batch.
    busy = [asyncio.create_task(_raw(request)) for _ in range(2)]
    await asyncio.sleep(SLOW_S / 5)
    _, first = await asyncio.open_connection("127.0.0.1", 8000)
    first.write(request)
    rest = [asyncio.create_task(_raw(request)) for _ in range(63)]
    await asyncio.sleep(SLOW_S * 1.5)
    first.close()
    answers = await asyncio.gather(*busy, *rest)
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 65


async def _raw(request: bytes) -> bytes:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", 8000)
        try:
            writer.write(request)
            return await reader.read(65536)
        finally:
            writer.close()


def test_an_alias_moves_without_a_failed_request(platform: Platform) -> None:
    mlflow = registry(platform.home)
    with tracking(platform.home):
        mlflow.create_model_version("moving", mlflow.get_model_version("moving", "1").source)
    mlflow.set_registered_model_alias("moving", "champion", "1")
    with Client(URL) as client:
        assert client.predict("moving@champion", {"x": 1}).version == "1"
        mlflow.set_registered_model_alias("moving", "champion", "2")
        versions: list[str] = []
        deadline = time.monotonic() + 60
        while "2" not in versions[-1:]:
            assert time.monotonic() < deadline
            versions.append(client.predict("moving", {"x": 1}).version)
        assert set(versions) <= {"1", "2"}
        assert client.model("moving").aliases == {"champion": "2"}


def test_a_new_model_is_served_as_soon_as_it_is_registered(platform: Platform) -> None:
    mlflow = registry(platform.home)
    mlflow.create_registered_model("newborn")
    with tracking(platform.home):
        mlflow.create_model_version("newborn", mlflow.get_model_version("moving", "1").source)
    answer = httpx.post(f"{URL}/v1/models/newborn:predict", json={"instances": [{"x": 4}]}, timeout=60)
    assert answer.json()["predictions"] == [8.0]


def test_a_deleted_version_is_gone_within_a_poll(platform: Platform) -> None:
    with tracking(platform.home):
        client = registry(platform.home)
        client.create_registered_model("pruned")
        source = client.get_model_version("choking", "1").source
        for _ in range(2):
            client.create_model_version("pruned", source)
    path, body = f"{URL}/v1/models/pruned/versions/1:predict", {"instances": [{"x": 1}]}
    assert httpx.post(path, json=body, timeout=120).status_code == 200
    folders = list(platform.home.rglob("pruned/1/artifacts"))
    assert folders
    with tracking(platform.home):
        registry(platform.home).delete_model_version("pruned", "1")
    deadline = time.monotonic() + 60
    while httpx.post(path, json=body, timeout=120).status_code == 200 or any(folder.exists() for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    answer = httpx.post(path, json=body, timeout=120)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    # A call that was under way may have loaded the version once more; the next poll ends that too.
    model = f"{URL}/v1/models/pruned"
    until(lambda: httpx.get(model, timeout=60).json()["model"]["versions"].keys() == {"2"})
    assert httpx.post(f"{URL}/v1/models/pruned:predict", json=body, timeout=120).json()["model_version"] == "2"


@pytest.mark.parametrize("name", ["prix moyen (été) v1.0", "価格+50%", "%2e%2E=", "team@price"])
def test_every_name_that_mlflow_allows_is_served(name: str, platform: Platform) -> None:
    path, alias = quote(name, safe=""), "größe"
    with tracking(platform.home):
        client = registry(platform.home)
        client.create_registered_model(name)
        client.create_model_version(name, client.get_model_version("choking", "1").source)
        client.set_registered_model_alias(name, alias, "1")
    body, answered = {"instances": [{"x": 1}]}, ([2.0], name, "1")
    for ref in (path, f"{path}@{quote(alias)}", f"{path}/versions/1"):
        answer = httpx.post(f"{URL}/v1/models/{ref}:predict", json=body, timeout=120).raise_for_status().json()
        assert (answer["predictions"], answer["model_name"], answer["model_version"]) == answered
    inputs = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}
    answer = httpx.post(f"{URL}/v2/models/{path}/infer", json=inputs, timeout=60).raise_for_status().json()
    assert answer["model_name"] == name
    answer = httpx.post(f"{URL}/invocations/{path}", json={"inputs": {"x": [1]}}, timeout=60).raise_for_status().json()
    assert answer == {"predictions": [2.0]}
    assert serve(model_name=name, data={"x": 1}).json()["prediction"] == [2.0]
    with Client(URL) as client:
        assert client.predict(f"{name}@{alias}", {"x": 1}).model == name
        client.unload(f"{name}/versions/1")
        assert client.load(f"{name}@{alias}").version == "1"
        assert client.model(name).aliases == {alias: "1"}
    # Each scrape reaches one gateway replica, and there may be two.
    until(lambda: f'model="{name}"' in httpx.get(f"{URL}/metrics", timeout=60).text)
    until(lambda: name in httpx.get(f"{URL}/openapi.json", timeout=60).text)  # it leaves out what is described late


def test_the_request_id_is_echoed_or_created_once(platform: Platform) -> None:
    body = {"model_name": DEMO, "data": ROW}
    for headers in ({"x-request-id": "mine"}, {}):
        answer = httpx.post(f"{URL}/serve", json=body, headers=headers, timeout=60)
        assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
        assert answer.json()["request_id"] == headers.get("x-request-id", answer.json()["request_id"])
    assert httpx.get(f"{URL}/health", timeout=60).headers.get_list("x-request-id")[1:] == []


def test_the_deadline_is_kept_in_the_callers_dialect(platform: Platform) -> None:
    httpx.post(f"{URL}/v1/models/slow:predict", json={"instances": [{"x": 1}]}, timeout=60)
    answer = httpx.post(
        f"{URL}/v1/models/slow:predict",
        json={"instances": [{"x": 1}]},
        headers={"x-request-timeout-seconds": str(SLOW_S / 2)},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_an_unloaded_version_is_loaded_again_when_called(platform: Platform) -> None:
    """What pools hold is reported a moment after it has changed, and a call may meet the copy that is about to go."""

    def state() -> str:
        found: str = serve(model_name="forest", action="status").json()["model"]["versions"]["1"]["state"]
        return found

    def is_loaded() -> bool:
        assert serve(model_name="forest", model_version="1", data={"a": 1, "b": 2, "c": 3}).status_code == 200
        return state() == "ready"

    for _ in range(2):
        until(is_loaded, 120)
        assert serve(model_name="forest", action="unload", model_version="1").status_code == 200
        until(lambda: state() == "cold", 120)


def test_a_model_registered_again_replaces_the_deleted_one(platform: Platform) -> None:
    mlflow = registry(platform.home)
    answers: list[list[float]] = []
    for source in ("choking", "slow"):
        with tracking(platform.home):
            mlflow.create_registered_model("reborn")
            mlflow.create_model_version("reborn", mlflow.get_model_version(source, "1").source)
        deadline = time.monotonic() + 120
        while (answer := serve(model_name="reborn", model_version="1", data={"x": 4})).status_code != 200 or (
            answers and answer.json()["prediction"] == answers[0]
        ):
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        answers.append(answer.json()["prediction"])
        # Or the deletion may meet this write.
        until(lambda: "serving.live" in mlflow.get_registered_model("reborn").tags, 120)
        mlflow.delete_registered_model("reborn")
    assert answers == [[8.0], [4.0]]


async def test_large_inputs_and_answers_pass_between_the_deployments(platform: Platform) -> None:
    rows = 100_000
    body = {"model_name": DEMO, "data": [ROW] * rows}
    answer = (await post_all("/serve", [json.dumps(body).encode()]))[0]
    assert answer.status_code == 200, answer.text[:500]
    assert len(answer.json()["prediction"]) == rows


def test_the_gateway_stays_small(platform: Platform) -> None:
    replicas: list[ReplicaUsage] = []

    def are_there() -> bool:  # a replica that was silent for a while is left out
        nonlocal replicas
        replicas = client.status()
        kinds = {replica.deployment.partition(":")[0] for replica in replicas}
        return kinds == {"Gateway", "ModelPool", "Features", "Releases"}

    with Client(URL) as client:
        until(are_there)
    assert max(r.rss_bytes for r in replicas if r.deployment == "Gateway") <= 300 * 1024**2


def test_health_names_every_part_and_metrics_count(platform: Platform) -> None:
    parts = {"gateway", "pools", "registry", "feature_store", "models"}
    until(lambda: httpx.get(f"{URL}/health", timeout=60).json()["parts"].keys() == parts)  # without those that are late

    def are_counted() -> bool:
        found = scrape()
        requests = found.get(f'ml_serve_requests_total{{model="{DEMO}",version="1"}}')
        return bool(requests) and any(name.startswith("http_requests_total") for name in found)

    until(are_counted)


def test_one_scrape_has_every_replica(platform: Platform) -> None:
    memory = scrape()
    deployments = {
        name.partition('deployment="')[2].rstrip('"}') for name in memory if name.startswith("ml_serve_replica_memory")
    }
    assert deployments == {"Gateway", "Features", "ModelPool:default", "Releases"}
    gateways = {process.pid for process in platform.replicas("Gateway")}
    assert len(memory['ml_serve_replica_memory_bytes{deployment="Gateway"}']) == len(gateways)


def test_rays_metrics_port_has_the_counts_too(platform: Platform) -> None:
    session = Path(f"/tmp/ml-serve-{os.getuid()}/ray/session_latest")
    (file,) = session.glob("metrics_export_port_*")
    name = f'ray_ml_serve_requests_total{{.*model="{DEMO}".*}} [1-9]'
    url = f"http://127.0.0.1:{file.read_text()}/metrics"
    until(lambda: re.search(name, httpx.get(url, timeout=60).text) is not None)


def test_batches_travel_over_lanes(platform: Platform) -> None:
    def are_on_lanes() -> bool:
        for _ in range(20):
            assert httpx.post(f"{URL}/serve", json={"model_name": DEMO, "data": ROW}, timeout=60).status_code == 200
        found: Counter[str] = Counter()
        for name, values in scrape().items():
            found[name.partition("{")[0]] += sum(int(value) for value in values.values() if math.isfinite(value))
        batches = found["ml_serve_batch_seconds_count"]
        return found["ml_serve_lanes"] > 0 and batches > 0 and found["ml_serve_handle_batches_total"] < batches / 2

    until(are_on_lanes)


async def test_the_death_of_a_pool_replica_loses_no_prediction(platform: Platform) -> None:
    body = {"model_name": DEMO, "data": ROW}
    answers: list[httpx.Response] = []

    async def caller(client: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            answers.append(await client.post("/serve", json=body))

    headers = {"x-request-timeout-seconds": "110"}  # the only replica starts again
    async with httpx.AsyncClient(base_url=URL, headers=headers, timeout=120) as client:
        callers = [asyncio.create_task(caller(client, time.monotonic() + 4)) for _ in range(8)]
        await asyncio.sleep(1)
        (victim, *_) = pool_replicas()
        victim.kill()
        await asyncio.gather(*callers)
    assert len(answers) > 8
    assert [answer.text for answer in answers if answer.status_code != 200] == []
