"""The examples, run as their README says."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from tests.foreign.environment import clients_python
from tests.platform import ROOT, Platform

FOLDER = ROOT / "examples"
COMMANDS = re.findall(r"\| `([^`]+)` \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)


def test_every_example_is_listed_with_its_command() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert {shlex.split(command)[-1].rpartition("/")[2] for command in COMMANDS} == files


@pytest.mark.ray
@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_runs_as_written(command: str, platform: Platform) -> None:
    if ".venv-clients" in command:
        clients_python()
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "78.299" in done.stdout
