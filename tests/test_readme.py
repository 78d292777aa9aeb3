"""The README's own commands, run as a reader would."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.platform import ROOT, Platform

pytestmark = pytest.mark.ray

TEXT = (ROOT / "README.md").read_text()


def commands() -> list[tuple[str, str]]:
    """Each command of the console blocks with the output shown under it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].partition("  #")[0], ""))
            elif line:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def test_the_first_two_commands_start_it_and_test_it() -> None:
    assert [command.strip() for command, _ in commands()[:2]] == ["make serve", "make test"]


@pytest.mark.parametrize("command", commands()[2:], ids=lambda pair: shlex.split(pair[0])[-1][:60])
def test_a_command_answers_as_shown(command: tuple[str, str], platform: Platform) -> None:
    line, shown = command
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if shown:
        expected, answer = json.loads(shown), json.loads(done.stdout)
        assert expected.pop("request_id") == "…"
        assert answer.pop("request_id")
        assert answer == expected


def test_the_python_example_runs(platform: Platform) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("[78.29")


def test_the_panel_holds_the_same_request(platform: Platform) -> None:
    assert commands()[2][0] in platform.output()
    assert "http://127.0.0.1:8000/docs" in platform.output()
