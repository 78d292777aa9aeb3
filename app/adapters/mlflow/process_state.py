"""State of the process that a model may change for all others: its environment, working directory and options."""

from __future__ import annotations

import copy
import locale
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd


class ChangesProcess(Exception):
    """A model has changed what all models of its process share; `args` are the names of what it changed."""


class _Aspect(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextmanager
def unchanged() -> Iterator[None]:
    """Restore the state of the process at the end. Raises `ChangesProcess` where there was something to restore."""
    before = [(aspect, aspect.read()) for aspect in _ASPECTS]
    try:
        yield
    finally:
        changed = [(aspect, value) for aspect, value in before if aspect.read() != value]
        for aspect, value in changed:
            aspect.write(value)
    if changed:
        raise ChangesProcess(*(aspect.name for aspect, _ in changed))


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


_ASPECTS = (
    _Aspect("environment variables", lambda: dict(os.environ), _write_environment),
    _Aspect("the working directory", os.getcwd, os.chdir),
    _Aspect("the options of pandas", lambda: copy.deepcopy(pd.options.d), _write_pandas_options),
    _Aspect(
        "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
)
