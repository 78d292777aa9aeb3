"""The console blocks of a page: commands after ``$``, and the output that the page shows under each."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.platform import ROOT

ANYTHING = "…"
"""Stands in a page for a text that differs each time, such as a request id."""

_FRACTION = re.compile(r"(\d+\.\d+)")


def commands(text: str) -> list[tuple[str, str]]:
    """Each command with the output shown under it, which may be empty."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
        assert "".join(f"$ {command}\n{output}" for command, output in shown) == block
        found += shown
    return found


def run(command: str, folder: Path = ROOT) -> str:
    """Run a command as a reader would, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    line = re.sub(r"^mlflow ", "python -m mlflow ", command)
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(shown: str, printed: str) -> None:
    """Compare what the page shows with what was printed: JSON by its values, other text line by line.

    Numbers may differ in their last digits, which depend on the processor.
    """
    if shown.startswith("{"):
        assert _filled(json.loads(shown), json.loads(printed)) == json.loads(printed)
    elif shown:
        lines = [line.rstrip() for line in printed.strip().splitlines()]
        assert lines == with_numbers(shown.splitlines(), lines)


def with_numbers(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Return the lines that the page shows, with the printed fractions where they are equal but for the last digits."""
    return [_with_numbers(*pair) for pair in zip(shown, printed, strict=False)] + [*shown[len(printed) :]]


def _with_numbers(shown: str, printed: str) -> str:
    parts, others = _FRACTION.split(shown), _FRACTION.split(printed)
    if len(parts) != len(others):
        return shown
    for at in range(1, len(parts), 2):  # every second part is a fraction
        if _is_close(float(parts[at]), float(others[at])):
            parts[at] = others[at]
    return "".join(parts)


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12)


def _filled(shown: Any, printed: Any) -> Any:
    """What the page shows, with the printed value in each place of `ANYTHING` and of an equal number."""
    if shown == ANYTHING and isinstance(printed, str) and printed:
        return printed
    if isinstance(shown, dict) and isinstance(printed, dict):
        return {key: _filled(value, printed.get(key)) for key, value in shown.items()}
    if isinstance(shown, list) and isinstance(printed, list) and len(shown) == len(printed):
        return [_filled(*pair) for pair in zip(shown, printed, strict=True)]
    if isinstance(shown, float) and isinstance(printed, float) and _is_close(shown, printed):
        return printed
    return shown
