"""The wheels: the client's works in an environment of its own, and the gateway's does not contain it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_fakes, total
from tests.platform import ROOT
from tests.server import Server

LIBRARIES = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "ml_serve_client", "typing_extensions"}
SCRIPT = """
import asyncio, importlib.util, json, sys
from ml_serve_client import ApiError, AsyncClient, Client
imported = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"__main__"}
heavy = ("ray", "mlflow", "feast", "numpy", "pandas", "pydantic", "fastapi", "app")
found = {"imported": sorted(imported), "installed": [name for name in heavy if importlib.util.find_spec(name)]}

async def predict():
    async with AsyncClient(sys.argv[1]) as client:
        return (await client.predict("sum", {"a": 3, "b": 4})).predictions

with Client(sys.argv[1]) as client:
    found["predictions"] = client.predict("sum", {"a": 1, "b": 2}).predictions
    try:
        client.predict("sum", {"a": "x", "b": 2})
    except ApiError as error:
        found["code"] = error.code
    try:
        client.infer("sum", {"a": [1.0]})
    except ImportError as error:
        found["hint"] = str(error)
found["awaited"] = asyncio.run(predict())
print(json.dumps(found))
"""


def build(project: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "clients" / "python", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a bare environment with the client's wheel and what pip installs for it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return python


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_one_typed_package(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names(wheel) if ".dist-info/" not in name} == {"ml_serve_client"}
    assert "ml_serve_client/py.typed" in names(wheel)


def test_the_wheel_requires_httpx_alone(wheel: Path) -> None:
    required = metadata(wheel).get_all("Requires-Dist", [])
    assert [line for line in required if "extra ==" not in line] == ["httpx>=0.28"]
    assert set(metadata(wheel).get_all("Provides-Extra", [])) == {"numpy", "pandas"}


def test_the_client_works_in_a_bare_environment(environment: Path) -> None:
    refusals = 0

    async def busy_once(scope: Any, receive: Any, send: Any) -> None:
        nonlocal refusals
        if refusals:
            await fakes.app(scope, receive, send)
            return
        refusals += 1
        headers = [(b"retry-after", b"0"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    fakes = make_fakes({"sum": total("a", "b")})
    with Server(busy_once) as server:
        run = subprocess.run(
            [str(environment), "-I", "-c", SCRIPT, server.url], capture_output=True, text=True, timeout=120, check=False
        )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert refusals == 1
    assert found["predictions"] == [3]
    assert found["awaited"] == [7]
    assert found["code"] == "invalid_input"
    assert found["hint"].endswith("pip install numpy")
    assert found["installed"] == []
    assert set(found["imported"]) <= LIBRARIES


def test_the_gateways_wheel_has_the_types_and_the_plugin(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path)
    assert {name.partition("/")[0] for name in names(wheel) if ".dist-info/" not in name} == {"app"}
    assert "app/py.typed" in names(wheel)
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in names(wheel) if name.endswith("entry_points.txt"))
        assert "[mlflow.deployments]\nml-serve = app.mlflow_plugin" in archive.read(entry_points).decode()


def test_the_gateway_requires_the_client_but_does_not_lock_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [name for name in project["project"]["dependencies"] if name.startswith("ml-serve-client")]
    assert project["tool"]["uv"]["sources"]["ml-serve-client"]["path"] == "clients/python"
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert "\nml-serve-client" not in lock.read_text()
