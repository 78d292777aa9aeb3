"""The examples of the documents, run as they are written: each prints what stands beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("demo_as_before")]

PLUGIN = ROOT / "docs" / "mlflow-plugin.md"


@pytest.mark.parametrize("page", [ROOT / "docs" / "client.md", PLUGIN], ids=lambda page: page.name)
def test_python_prints_what_stands_beside_it(page: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert done.stdout.splitlines() == expected
    assert len(expected) == code.count("print(")


@pytest.mark.parametrize("page", [ROOT / "docs" / "releases.md", PLUGIN], ids=lambda page: page.name)
def test_commands_print_what_stands_under_them(page: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert len(commands) == block.count("$ ") > 0
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    for command, shown in commands:
        line = command.replace("mlflow ", "python -m mlflow ", 1)
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert [text.rstrip() for text in done.stdout.strip().splitlines()] == shown.splitlines()
