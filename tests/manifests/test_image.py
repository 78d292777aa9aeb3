"""Check what the Dockerfile installs, as which user it runs, and that it fits the manifests and the application."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

from app.deployments.environment import ray_environment
from app.settings import Settings, environment_names
from tests.manifests.manifests import PODS, ROOT, pins

BASE_IMAGE = "python:3.11-slim-bookworm"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]


def instructions(name: str) -> list[str]:
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def test_one_place_names_the_image_with_the_project_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    written = [
        match.strip()
        for path in (ROOT / "k8s").rglob("*.yaml")
        for match in re.findall(r"^[\s-]*image:(.*)$", path.read_text(), re.MULTILINE)
    ]
    assert sorted(written) == [f"&image ml-serve-gateway:{version}", "*image"]


def test_the_image_has_one_base_and_runs_as_a_numbered_user() -> None:
    assert {base.split()[0] for base in instructions("FROM")} == {BASE_IMAGE}
    pod = PODS["worker"]["spec"]["securityContext"]
    assert instructions("USER") == [f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    assert json.loads(instructions("CMD")[0]) == ["ml-serve", "up", "--no-demo"]


def test_the_image_installs_locked_requirements_and_nothing_else() -> None:
    installs = [run for run in instructions("RUN") if "pip install" in run]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "requirements/image.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_the_image_locks_what_was_tested() -> None:
    image, tested = pins("image"), pins("dev")
    assert image.keys() >= pins("runtime").keys() | {"lightgbm", "onnxruntime", "xgboost-cpu"}
    assert {name: tested[name] for name in image} == image
    assert "pytest" not in image


def test_the_image_has_the_programs_that_probes_call() -> None:
    (run,) = [run for run in instructions("RUN") if "apt-get install" in run]
    assert {"wget", "curl", "libgomp1"} <= set(run.split())


def test_the_image_sets_what_ray_must_find_on_every_node() -> None:
    one = ray_environment(Settings(), Path("/run/one"))
    other = ray_environment(
        Settings(haproxy_stats_port=1, haproxy_metrics_port=1, drain_s=9),
        Path("/run/other"),
    )
    own = ("FALLBACK", "MAXCONN")  # chosen by what the machine has free
    fixed = {
        name: value for name, value in one.items() if other[name] == value and not any(part in name for part in own)
    }
    assert fixed
    in_image = dict(assignment.split("=", 1) for line in instructions("ENV") for assignment in shlex.split(line))
    assert {name: in_image.get(name) for name in fixed} == fixed
    ours = {name for name in in_image if name not in one and name != "PATH"}
    assert ours <= {name for name, _ in environment_names()}


def test_dockerignore_lets_through_every_copied_file() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instructions("COPY") if not line.startswith("--from") for source in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
