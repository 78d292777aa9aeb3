"""State of the process that a model may change for all others: its environment, working directory and options."""

from __future__ import annotations

import copy
import locale
import os
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd

T = TypeVar("T")


class ChangesProcess(Exception):
    """A model has changed what all models of its process share; `args` are the names of what it changed."""


class _Aspect(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


_WATCHING = threading.Lock()
"""One load is watched at a time: of two at once, one would restore what the other has changed."""


def watch(load: Callable[[], T], code: Path | None = None) -> T:
    """Run a load, and undo what it changes in the process.

    A load that imports libraries runs twice, because some libraries set environment variables when they are imported.
    Such variables stay, if the second load changes nothing.

    Args:
        code: a folder below which new import paths are no change, because MLflow adds them.

    Raises:
        ChangesProcess: the load changes what other models share.
    """
    with _WATCHING:
        modules = len(sys.modules)
        found, changes = _undone(load, code)
        if len(sys.modules) > modules and changes.keys() == {_ENVIRONMENT}:
            added = changes[_ENVIRONMENT]
            found, changes = _undone(load, code)
            if not changes:
                os.environ.update({name: value for name, value in added.items() if name not in os.environ})
    if changes:
        raise ChangesProcess(*changes)
    return found


def _undone(load: Callable[[], T], code: Path | None) -> tuple[T, dict[str, Any]]:
    """Run a load and restore the process. Return its result, and each changed aspect with its value after the load."""
    aspects = (*_ASPECTS, _Aspect("the import path", partial(_import_path, code), partial(_write_import_path, code)))
    before = [(aspect, aspect.read()) for aspect in aspects]
    changes: dict[str, Any] = {}
    try:
        return load(), changes
    finally:
        for aspect, value in before:
            now = aspect.read()
            if now != value:
                changes[aspect.name] = now
                aspect.write(value)


def _import_path(code: Path | None) -> list[str]:
    return [path for path in sys.path if code is None or not Path(path).is_relative_to(code)]


def _write_import_path(code: Path | None, paths: list[str]) -> None:
    own = [path for path in sys.path if code is not None and Path(path).is_relative_to(code)]
    sys.path[:] = [*own, *paths]


def _write_environment(values: Mapping[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in values.items() if os.environ.get(name) != value})


def _write_pandas_options(values: Mapping[str, Any], prefix: str = "") -> None:
    now: Any = pd.options.d
    for part in prefix.split(".")[:-1]:
        now = now[part]
    for name, value in values.items():
        if isinstance(value, dict):
            _write_pandas_options(value, f"{prefix}{name}.")
        elif now[name] != value:  # reading it by `get_option` would warn of deprecated ones
            pd.set_option(prefix + name, value)


_ENVIRONMENT = "environment variables"
_ASPECTS = (
    _Aspect(_ENVIRONMENT, lambda: dict(os.environ), _write_environment),
    _Aspect("the working directory", os.getcwd, os.chdir),
    _Aspect("the options of pandas", lambda: copy.deepcopy(pd.options.d), _write_pandas_options),
    _Aspect(
        "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
)
