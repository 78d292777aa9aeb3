"""`Releases` over a real MLflow server that answers late, wrongly or not at all: what is served stays the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from starlette.requests import Request
from starlette.responses import Response

from app.adapters.mlflow import connection as registry_connection
from app.adapters.mlflow.registry import configure
from app.errors import RegistryUnavailable
from app.serving.placement.states import VersionState
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.observed import Contract
from app.serving.releases.table import ReleaseTable
from app.settings import Settings
from tests.adapters.between import Between, pass_on
from tests.conftest import environment_of_nobody
from tests.deployments.test_releases import Releases, until
from tests.server import Server

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("starting_server"),
    pytest.mark.timeout(120),
]

NAME = "outage-prices"
V1, V2 = ModelVersion(NAME, "1"), ModelVersion(NAME, "2")
INPUTS = Contract([{"name": "oil", "type": "double", "required": True}])
READY = VersionState("ready", None, 100, 5.0)


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> Iterator[MlflowClient]:
    """Client of a real registry with one model of two versions."""
    with environment_of_nobody():
        client = MlflowClient(mlflow_server, mlflow_server)
        run = client.create_run("0").info
        client.create_registered_model(NAME)
        for _ in range(2):
            client.create_model_version(NAME, f"{run.artifact_uri}/model", run.run_id)
        yield client
        client.delete_registered_model(NAME)


@pytest.fixture
def between(mlflow_server: str, client: MlflowClient) -> Between:
    client.set_registered_model_alias(NAME, "champion", "1")
    return Between(mlflow_server)


@pytest.fixture
def settings(between: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(registry_connection, "_SLACK_S", 0.5)
    with Server(between) as server:
        settings = Settings(home=tmp_path, mlflow_tracking_uri=server.url, registry_poll_s=0.2)
        configure(settings)
        yield settings


class Answer:
    """A step of the proxy that answers everything in one way, and counts."""

    def __init__(self, status: int, body: str) -> None:
        self._status = status
        self._body = body
        self.given = 0

    def __call__(self, request: Request, answer: httpx.Response | None) -> Response | None:
        self.given += 1
        return Response(self._body, self._status, media_type="application/json")


class WithoutModels(Answer):
    """The list of models without any, as a registry would say it that has just lost its disk; all else as it is."""

    def __init__(self) -> None:
        super().__init__(200, "{}")

    def __call__(self, request: Request, answer: httpx.Response | None) -> Response | None:
        if answer is None or "registered-models/search" not in request.url.path:
            return None
        return super().__call__(request, answer)


class Late(Answer):
    """Never in time."""

    def __init__(self) -> None:
        super().__init__(503, "")

    def __call__(self, request: Request, answer: httpx.Response | None) -> Response | None:
        time.sleep(2)  # the proxy has one thread: all others wait behind
        return super().__call__(request, answer)


BAD: dict[str, Any] = {
    "errors": lambda: Answer(500, "boom"),
    "a page": lambda: Answer(200, "<html>welcome</html>"),
    "nothing": lambda: Answer(200, "{}"),
    "nonsense": lambda: Answer(200, json.dumps({"registered_models": [{"name": 1, "aliases": "x"}]})),
    "cut short": lambda: Answer(200, '{"registered_models": [{"name": "outage'),
    "no models": WithoutModels,
    "late": Late,
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_answer_of_the_registry_changes_nothing(
    settings: Settings, between: Between, client: MlflowClient, kind: str
) -> None:
    releases = Releases(settings)
    await until(releases, lambda table: NAME in table.releases)
    await releases.report("r1", "default", {V1: READY}, {V1: INPUTS})
    before = releases._loop.state.table
    between.step = bad = BAD[kind]()
    async with asyncio.timeout(60):
        while bad.given < 2 or releases._loop.state.table.stale_since is None:  # noqa: ASYNC110 - the table notifies only those who watch it
            await asyncio.sleep(0.05)
    health = (await releases.health())["registry"]
    assert health["status"] == "unavailable"
    assert health["stale_since"]
    during: ReleaseTable = releases._loop.state.table
    assert (during.releases, during.resident) == (before.releases, before.resident)
    with pytest.raises(RegistryUnavailable):
        await releases.promote(V2, None, False)
    assert await releases.load(ModelRef(NAME, None, "1")) == V1, "a known version needs no registry"
    between.step = pass_on
    client.set_registered_model_alias(NAME, "champion", "2")
    async with asyncio.timeout(60):
        while (await releases.health())["registry"]["status"] != "ok":  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    await until(releases, lambda table: V2 in table.resident["default"])
    assert releases._loop.state.table.stale_since is None
    await releases.report("r1", "default", {V1: READY, V2: READY}, {V1: INPUTS, V2: INPUTS})
    assert releases._loop.state.table.releases[NAME].default == "2"


async def test_a_deleted_model_is_forgotten(settings: Settings, client: MlflowClient) -> None:
    client.create_registered_model("outage-gone")
    releases = Releases(settings)
    await until(releases, lambda table: "outage-gone" in table.releases)
    client.delete_registered_model("outage-gone")
    await until(releases, lambda table: "outage-gone" not in table.releases)
    assert NAME in releases._loop.state.table.releases
