"""A proxy between the platform and its registry may answer anything: none of it counts as the registry's answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app.adapters.mlflow import connection as registry_connection
from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import ModelNotFound, RegistryUnavailable
from app.serving.references import ModelVersion
from app.settings import Settings
from tests.adapters.between import Between, pass_on
from tests.conftest import environment_of_nobody
from tests.server import Server

pytestmark = [pytest.mark.usefixtures("starting_server"), pytest.mark.timeout(60, func_only=True)]

NAME = "hostile-prices"
VERSION = ModelVersion(NAME, "1")


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> Iterator[MlflowClient]:
    """Client of a real registry with one model that has one version."""
    with environment_of_nobody():
        client = MlflowClient(mlflow_server, mlflow_server)
        run = client.create_run("0").info
        client.create_registered_model(NAME)
        client.create_model_version(NAME, f"{run.artifact_uri}/model", run.run_id)
        yield client
        client.delete_registered_model(NAME)


@pytest.fixture
def between(mlflow_server: str, client: MlflowClient) -> Between:
    """Proxy in front of the registry."""
    return Between(mlflow_server)


@pytest.fixture
def registry(between: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowRegistry]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Server(between) as server:
        settings = Settings(home=tmp_path, mlflow_tracking_uri=server.url)
        configure(settings)
        yield MlflowRegistry(settings)


Question = Callable[[MlflowRegistry, Path], Any]

ABOUT_ONE: dict[str, Question] = {
    "model": lambda registry, folder: registry.model(NAME),
    "has_version": lambda registry, folder: registry.has_version(VERSION),
    "identity": lambda registry, folder: registry.identity(VERSION),
    "download": lambda registry, folder: registry.download(VERSION, folder),
    "set_alias": lambda registry, folder: registry.set_alias(NAME, "champion", "1"),
}
"""Requests whose answer only the registry can give."""

SAY_NOTHING = [(200, ""), (200, "{}"), (200, '{"status": "ok"}')]
"""MLflow's own form of an empty registry."""

NONSENSE = [
    *SAY_NOTHING,
    (200, "<html>welcome</html>"),
    (200, "[]"),
    (200, "null"),
    (200, '"registered_models"'),
    (200, '{"registered_models": "none", "registered_model": 3, "model_version": [], "model_versions": 1}'),
    (200, '{"registered_models": [{}], "registered_model": {}, "model_version": {}, "model_versions": [{}]}'),
    (200, '{"registered_models": [{"name": "a", "aliases": [{"alias": "b"}]}], "registered_model": {"name": "a"}}'),
    (200, '{"registered_models": [{"name": "a"}], "next_page_token": "again"}'),
    (500, "oops"),
    (502, "<html>bad gateway</html>"),
    (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "Active workspace is required."}'),
    (404, '{"detail": "Not Found"}'),
    (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Workspace \'team\' not found"}'),
    (404, '{"error_code": "ENDPOINT_NOT_FOUND", "message": "hostile-prices"}'),
    (429, "slow down"),
]


def always(status: int, body: str) -> Callable[[Request, httpx.Response | None], Response]:
    return lambda request, answer: Response(body, status, media_type="application/json")


@pytest.mark.parametrize(("status", "body"), NONSENSE)
def test_nonsense_does_not_count_as_an_answer(
    between: Between, registry: MlflowRegistry, tmp_path: Path, status: int, body: str
) -> None:
    before = registry.models()
    assert [model.latest for model in before if model.name == NAME] == ["1"]
    between.step = always(status, body)
    for name, ask in ABOUT_ONE.items():
        with pytest.raises(RegistryUnavailable):
            pytest.fail(f"{name}: {ask(registry, tmp_path)}")
    if (status, body) in SAY_NOTHING:
        assert registry.models() == []
    else:
        with pytest.raises(RegistryUnavailable):
            registry.models()
    between.step = pass_on
    assert registry.models() == before


def rewritten(pattern: str, by: str) -> Callable[[Request, httpx.Response | None], Response | None]:
    """Change the real answers."""

    def step(request: Request, answer: httpx.Response | None) -> Response | None:
        if answer is None:
            return None
        text, count = re.subn(pattern, by, answer.text, flags=re.DOTALL)
        assert count
        return Response(text, answer.status_code, media_type="application/json")

    return step


@pytest.mark.parametrize(
    ("pattern", "by"),
    [(f'"{NAME}"', '"costs"'), ('"version": "1"', '"version": "latest"'), (r"^(.{20}).*$", r"\1"), (r"\}\s*$", "")],
    ids=["another model", "a version that is no number", "cut short", "not closed"],
)
def test_a_tampered_answer_does_not_count(
    client: MlflowClient, between: Between, registry: MlflowRegistry, tmp_path: Path, pattern: str, by: str
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    between.step = rewritten(pattern, by)
    for name, ask in ABOUT_ONE.items():
        with pytest.raises(RegistryUnavailable):
            pytest.fail(f"{name}: {ask(registry, tmp_path)}")


def test_a_redirect_to_a_login_page_does_not_count(between: Between, registry: MlflowRegistry, tmp_path: Path) -> None:
    def log_in(request: Request, answer: httpx.Response | None) -> Response:
        return Response("<html>log in</html>") if request.url.path == "/login" else RedirectResponse("/login")

    between.step = log_in
    for ask in ABOUT_ONE.values():
        with pytest.raises(RegistryUnavailable):
            ask(registry, tmp_path)
    with pytest.raises(RegistryUnavailable):
        registry.models()


def test_only_the_registry_itself_says_that_a_model_is_gone(registry: MlflowRegistry, client: MlflowClient) -> None:
    client.create_registered_model("passing")
    assert registry.model("passing").latest is None
    client.delete_registered_model("passing")
    with pytest.raises(ModelNotFound):
        registry.model("passing")
    assert not registry.has_version(ModelVersion("passing", "1"))
    for name in ("", " ", ".", "..", "a/b", "a:b"):  # which MLflow refuses to look for
        with pytest.raises(ModelNotFound):
            registry.model(name)
        assert not registry.has_version(ModelVersion(name, "1"))


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(30)


async def by_bits(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer byte by byte, so that no single read times out."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for byte in json.dumps({"registered_models": [{"name": "x" * 400}]}).encode():
        await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await asyncio.sleep(0.1)


async def less_than_announced(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("app", [never, by_bits, less_than_announced], ids=lambda app: app.__name__)
def test_an_answer_that_does_not_end_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(registry_connection, "_SLACK_S", 0.5)
    with Server(app) as server:
        settings = Settings(home=tmp_path, mlflow_tracking_uri=server.url)
        configure(settings)
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            MlflowRegistry(settings).models()
