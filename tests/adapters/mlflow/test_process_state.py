"""What a model changes in its process is found and undone."""

from __future__ import annotations

import locale
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from app.adapters.mlflow.process_state import ChangesProcess, watch


def set_variable() -> None:
    os.environ["ONE_MORE"] = "1"


def drop_variable() -> None:
    del os.environ["HOME"]


def drop_path() -> None:
    del sys.path[-1]


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
        (lambda: sys.path.insert(0, "/nowhere"), "the import path", lambda: [*sys.path]),
        (drop_path, "the import path", lambda: [*sys.path]),
    ],
)
def test_a_change_is_named_and_undone(
    change: Callable[[], None], name: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = read()
    with pytest.raises(ChangesProcess) as raised:
        watch(change, None)
    assert raised.value.args == (name,)
    assert read() == before


def test_the_code_that_mlflow_adds_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    watch(lambda: sys.path.insert(0, str(tmp_path / "code")), tmp_path / "code")
    assert sys.path[0] == str(tmp_path / "code")


def test_an_error_of_the_model_is_what_is_raised() -> None:
    def fail() -> None:
        os.environ["ONE_MORE"] = "1"
        raise KeyError

    with pytest.raises(KeyError):
        watch(fail, None)
    assert "ONE_MORE" not in os.environ


def test_what_changes_nothing_returns_its_result() -> None:
    assert watch(lambda: pd.DataFrame({"x": [1.0]}).shape, None) == (1, 1)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A library that sets a variable when it is imported, as scikit-learn does."""
    (tmp_path / "setting_library.py").write_text("import os\nos.environ['OF_A_LIBRARY'] = '1'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "setting_library", raising=False)
    return "setting_library"


def test_what_the_import_of_a_library_sets_stays(library: str) -> None:
    loads = []

    def load() -> None:
        loads.append(__import__(library))

    watch(load, None)
    assert os.environ["OF_A_LIBRARY"] == "1"
    assert len(loads) == 2


def test_a_model_that_imports_and_sets_is_found_out(library: str) -> None:
    def load() -> None:
        __import__(library)
        os.environ["ONE_MORE"] = "1"

    with pytest.raises(ChangesProcess):
        watch(load, None)
    assert "ONE_MORE" not in os.environ


def test_of_two_loads_at_once_the_one_that_changes_is_found_out() -> None:
    began, changed = threading.Event(), []

    def change() -> None:
        os.environ["ONE_MORE"] = "1"
        began.set()
        threading.Event().wait(0.05)  # the other would see the change

    def run() -> None:
        try:
            watch(change, None)
        except ChangesProcess as change_:
            changed.append(change_.args)

    one = threading.Thread(target=run)
    one.start()
    assert began.wait(10)
    assert watch(lambda: os.environ.get("ONE_MORE"), None) is None
    one.join()
    assert changed == [("environment variables",)]
    assert "ONE_MORE" not in os.environ
