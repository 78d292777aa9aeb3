"""The examples of the documentation, run as they are written: each prints what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import console
from tests.platform import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("demo_as_before")]

CLIENTS = ROOT / "docs" / "clients"
WITH_COMMANDS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "```console" in path.read_text()]


def _name(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.parametrize("page", [CLIENTS / "python.md", CLIENTS / "mlflow-plugin.md"], ids=_name)
def test_python_prints_what_the_page_shows(page: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    printed = done.stdout.splitlines()
    assert printed == console.with_numbers(expected, printed)
    assert len(expected) == code.count("print(")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_name)
def test_commands_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    commands = console.commands(page.read_text())
    assert commands
    for command, shown in commands:
        folder = ROOT if command.startswith(".venv/") else tmp_path
        console.check(shown, console.run(command, folder))


def test_the_pages_with_commands_are_found() -> None:
    assert {"get-started.md", "release/index.md", "clients/curl.md", "clients/mlflow-plugin.md"} <= {
        _name(page) for page in WITH_COMMANDS
    }
