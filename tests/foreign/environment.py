"""The environment of other projects' clients, which need other versions of libraries than the gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.platform import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def clients_python() -> Path:
    """Its interpreter; without it the test is skipped, and under CI fails."""
    if not PYTHON.exists():
        reason = "other projects' clients are not installed: run `make clients`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return PYTHON
