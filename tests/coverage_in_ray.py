"""Plugin of coverage.py: save what Ray's workers have run. Ray ends them without their exit handlers."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import coverage

_EVERY_S = 2.0


def coverage_init(_registry: Any, _options: dict[str, str]) -> None:
    """Start to save from time to time, in a worker. Called by coverage.py in each process that it measures."""
    if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
        threading.Thread(target=_save, name="coverage", daemon=True).start()


def _save() -> None:
    while True:
        time.sleep(_EVERY_S)
        measured = coverage.Coverage.current()
        if measured is not None:
            measured.save()
