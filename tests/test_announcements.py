"""What `ml-serve up` tells, without a start."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from app.settings import Settings
from app.up import Announcements

RUNTIME = cast(Any, SimpleNamespace(url="http://127.0.0.1:8000", log_folder="/tmp/logs"))


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    logger = logging.getLogger("app")
    before = logger.level, [*logger.handlers]
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


def announce(form: Any) -> str:
    """What goes to the console."""
    settings, shown = Settings(log_format=form), io.StringIO()
    announcements = Announcements(settings, Console(file=shown, width=200))
    announcements.step("starting Ray")
    announcements.ready(settings, RUNTIME, 12.0, demo=True)
    announcements.say("Ctrl-C stops everything.")
    announcements.fail("Ray ended")
    return shown.getvalue()


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    shown = announce("text")
    for text in ("· starting Ray", "ready after 12 s", "curl", "Ctrl-C stops everything.", "Ray ended"):
        assert text in shown
    assert capsys.readouterr().out == ""


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert announce("json") == ""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("INFO", "starting Ray"),
        ("INFO", "ml-serve is ready: url=http://127.0.0.1:8000 seconds=12.0 logs=/tmp/logs"),
        ("INFO", "Ctrl-C stops everything."),
        ("ERROR", "Ray ended"),
    ]
    assert (lines[1]["url"], lines[1]["seconds"]) == ("http://127.0.0.1:8000", 12.0)
