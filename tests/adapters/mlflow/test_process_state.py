"""What a model changes in its process is found and undone."""

from __future__ import annotations

import locale
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from app.adapters.mlflow.process_state import ChangesProcess, unchanged


def set_variable() -> None:
    os.environ["ONE_MORE"] = "1"


def drop_variable() -> None:
    del os.environ["HOME"]


def set_option() -> None:
    pd.set_option("display.precision", 3)


def set_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")


@pytest.mark.parametrize(
    ("change", "name", "read"),
    [
        (set_variable, "environment variables", lambda: os.environ.get("ONE_MORE")),
        (drop_variable, "environment variables", lambda: os.environ.get("HOME")),
        (set_option, "the options of pandas", lambda: pd.get_option("display.precision")),
        (set_locale, "the locale", lambda: locale.setlocale(locale.LC_ALL)),
        (lambda: os.chdir("/"), "the working directory", os.getcwd),
    ],
)
def test_a_change_is_named_and_undone(
    change: Callable[[], None], name: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = read()
    with pytest.raises(ChangesProcess) as raised, unchanged():
        change()
    assert raised.value.args == (name,)
    assert read() == before


def test_an_error_of_the_model_is_what_is_raised() -> None:
    def fail() -> None:
        os.environ["ONE_MORE"] = "1"
        raise KeyError

    with pytest.raises(KeyError), unchanged():
        fail()
    assert "ONE_MORE" not in os.environ


def test_what_changes_nothing_passes() -> None:
    with unchanged():
        pd.DataFrame({"x": [1.0]}).to_string()
