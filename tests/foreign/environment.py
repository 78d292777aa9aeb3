"""The environment of other projects' clients, which need other versions of libraries than the gateway."""

from __future__ import annotations

from pathlib import Path

from tests.missing import missing
from tests.platform import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def clients_python() -> Path:
    """Its interpreter; without it the test is skipped, and under CI fails."""
    if not PYTHON.exists():
        missing("other projects' clients are not installed: run `make clients`")
    return PYTHON
