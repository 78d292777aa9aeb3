"""The README's own commands, run as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests import console
from tests.platform import ROOT, Platform

pytestmark = pytest.mark.ray

TEXT = (ROOT / "README.md").read_text()
COMMANDS = console.commands(TEXT)


def test_the_first_two_commands_start_it_and_test_it() -> None:
    assert [command.partition("#")[0].strip() for command, _ in COMMANDS[:2]] == ["make serve", "make test"]


@pytest.mark.parametrize("command", COMMANDS[2:], ids=lambda pair: shlex.split(pair[0])[-1][:60])
def test_a_command_answers_as_shown(command: tuple[str, str], platform: Platform) -> None:
    line, shown = command
    printed = console.run(line)
    assert printed
    console.check(shown, printed)


def test_the_python_example_runs(platform: Platform) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("[78.29")


def test_the_panel_holds_the_same_request(platform: Platform) -> None:
    assert COMMANDS[2][0] in platform.output()
    assert "http://127.0.0.1:8000/docs" in platform.output()
