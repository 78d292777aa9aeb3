"""Setup of a replica's process: logging, garbage collection, warnings."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import psutil
import ray
import yaml

from app.deployments.json_logs import write_json
from app.settings import Settings

_GC_THRESHOLDS = (50_000, 20, 20)
"""Instead of (700, 10, 10): one collection per thousand requests, not per ten."""
_FOLDER = "ml-serve-"
_HIDDEN = (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning)


def configure_logging(settings: Settings) -> None:
    """Send the log lines of ``app`` to the replica's log file, which Ray keeps per process."""
    logger = logging.getLogger("app")
    logger.setLevel(settings.log_level.upper())
    serve = logging.getLogger("ray.serve")
    for handler in serve.handlers:
        if handler not in logger.handlers:
            logger.addHandler(handler)
        if settings.log_format == "json":
            write_json(handler)
    logger.propagate = False


def prepare_for_models() -> None:
    """Make loads cheap for concurrent predictions. Call this after library imports and before the first model.

    - MLflow parses a model's description three times with PyYAML's Python parser, which holds the GIL for 17 of the
      19 ms that a small model takes to load. The C parser returns the same.
    - Imported objects leave the garbage collector's rounds, which stop all threads: 84 ms per round before, 0 after.
    - Only Python's own warning filters and one stay, unless the operator has set some. Libraries add 14 on import, and
      scikit-learn installs all of them for each tree of a forest, on each call.
    """
    if not sys.warnoptions:
        warnings.resetwarnings()
        for category in _HIDDEN:
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)  # of accelerated models
    if hasattr(yaml, "CSafeLoader"):
        yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]
    gc.collect()
    gc.freeze()


def enter_own_folder() -> None:
    """Make an empty folder the working directory, where models may write.

    Remove the folders of processes that have ended: many are killed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        pid = left.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    os.chdir(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))


def lane_host(settings: Settings) -> str | None:
    """Return the address at which this process takes lanes, None where there are none."""
    if settings.transport != "lanes" or os.environ.get("RAY_USE_TLS") == "1":  # lanes are not encrypted
        return None
    # A cluster that `up` starts is one node.
    return "127.0.0.1" if settings.ray_address is None else str(ray.util.get_node_ip_address())


def memory_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def make_collections_rare() -> None:
    """Make garbage collection rare: objects of imports and requests form no cycles, but count towards the next one."""
    gc.set_threshold(*_GC_THRESHOLDS)


def prepare_for_requests() -> None:
    """Keep what exists now out of garbage collections, and make them rare."""
    gc.collect()
    gc.freeze()
    make_collections_rare()
