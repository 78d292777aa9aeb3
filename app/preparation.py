"""What `ml-serve up` does while Ray starts: check the servers and seed the demo."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

from app.demo import is_seeded, seed
from app.doctor import REGISTRY, Check, examine_servers
from app.errors import StartupError
from app.settings import Settings

_CHECKED_FILE = "checked.json"
_CHECKED_LIBRARIES = ("mlflow", "feast")
_IGNORE_CTRL_C = (signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; only this process acts on it


@contextmanager
def preparation(settings: Settings, *, demo: bool) -> Iterator[Future[list[str]]]:
    """Check the servers and seed the demo in a process of its own, unless there is nothing to do.

    MLflow and Feast take seconds to import, and memory that this process then needs no longer. The future's result is
    lines to print; its exception is a `StartupError` with one line per failed check.
    """
    if _is_done(settings, demo=demo):
        done: Future[list[str]] = Future()
        done.set_result([])
        yield done
        return
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), initializer=signal.signal, initargs=_IGNORE_CTRL_C
    ) as process:
        yield process.submit(_prepare, settings, demo)


def require(checks: list[Check]) -> None:
    """Raise a `StartupError` with one line per failed check."""
    failed = [check.message for check in checks if not check.ok]
    if failed:
        raise StartupError("\n".join(failed))


def _prepare(settings: Settings, demo: bool) -> list[str]:
    logging.disable()  # of MLflow and Feast; the checks' messages say what matters
    lines: list[str] = []
    checks = examine_servers(settings)
    down = next((check for check in checks if check.name == REGISTRY and not check.ok), None)
    if down is not None and _was_serving(settings):
        lines.append(f"{down.message}; serving the last known state from {settings.cache_folder}")
        checks.remove(down)
        demo = False
    require(checks)
    if demo:
        seed(settings, lines.append)
    (settings.home / _CHECKED_FILE).write_text(json.dumps(_files_checked(settings)))
    return lines


def _was_serving(settings: Settings) -> bool:
    """Return whether an earlier run left a snapshot of served models."""
    try:
        return bool(json.loads(settings.snapshot_file.read_bytes())["models"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_done(settings: Settings, *, demo: bool) -> bool:
    """Return whether an earlier start has checked and seeded the same files with the same libraries."""
    checked = _files_checked(settings)
    try:
        is_checked = checked is not None and json.loads((settings.home / _CHECKED_FILE).read_bytes()) == checked
    except (OSError, ValueError):
        return False
    return is_checked and (not demo or is_seeded(settings))


def _files_checked(settings: Settings) -> dict[str, str] | None:
    """Describe the embedded registry and feature store; None where there is a server or no readable registry."""
    if not settings.is_embedded_registry or settings.feast_folder not in (None, settings.demo_feast_repo):
        return None
    database = Path(settings.registry_uri.removeprefix("sqlite:///")).absolute()
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            ((schema,),) = opened.execute("SELECT version_num FROM alembic_version").fetchall()
    except (sqlite3.Error, ValueError):
        return None
    libraries = {library: metadata.version(library) for library in _CHECKED_LIBRARIES}
    return {"registry": str(database), "schema": str(schema), "features": str(settings.feast_folder), **libraries}
