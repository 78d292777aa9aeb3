"""Log lines as JSON, written by the real loggers and handlers."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.deployments.json_logs import write_json
from app.serving.references import ModelVersion


class Log:
    """A logger whose handler writes JSON; `lines` are what it has written."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.logger = logging.Logger("app.somewhere")
        handler = logging.StreamHandler(self._stream)
        write_json(handler)
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_line_has_the_time_in_utc_the_level_and_the_logger(log: Log) -> None:
    log.logger.info("lane opened")
    (line,) = log.lines
    assert line.keys() == {"timestamp", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "app.somewhere", "lane opened")
    time = datetime.fromisoformat(line["timestamp"])
    assert time.utcoffset() == timedelta(0)
    assert line["timestamp"].endswith("Z")


def test_facts_of_the_message_are_fields(log: Log) -> None:
    log.logger.warning("100 %% of %s failed: pool=%r member=%s seconds=%.1f late=%s", "them", "a", "b", 0.25, True)
    (line,) = log.lines
    assert line["message"] == "100 % of them failed: pool='a' member=b seconds=0.2 late=True"
    assert {key: line[key] for key in line.keys() - {"timestamp", "level", "logger", "message"}} == {
        "pool": "a",
        "member": "b",
        "seconds": 0.25,
        "late": True,
    }


@pytest.mark.parametrize("message", ["load failed: model=%s", "failed to load %s in a worker"])
def test_a_version_is_a_model_and_its_version(log: Log, message: str) -> None:
    log.logger.info(message, ModelVersion("prices", "3"))
    assert [(line["model"], line["version"]) for line in log.lines] == [("prices", "3")]


def test_facts_beside_the_message_never_replace_a_field(log: Log) -> None:
    log.logger.info("call: level=%s", "high", extra={"facts": {"caller": "desk", "message": "other", "set": {1}}})
    (line,) = log.lines
    assert (line["level"], line["message"], line["caller"], line["set"]) == ("INFO", "call: level=high", "desk", "{1}")


def test_an_exception_is_text_in_the_same_line(log: Log) -> None:
    try:
        int("half a character: \ud800")
    except ValueError:
        log.logger.exception("failed:\nrequest_id=%s", "a\nb")
    (line,) = log.lines
    assert line["request_id"] == "a\nb"
    assert line["exception"].startswith("Traceback")
    assert "half a character" in line["exception"].splitlines()[-1]


def test_a_buffering_handler_writes_json_too(tmp_path: Path) -> None:
    file = logging.FileHandler(tmp_path / "log")
    handler = logging.handlers.MemoryHandler(1, target=file)
    write_json(handler)
    logger = logging.Logger("ray.serve")
    logger.addHandler(handler)
    logger.info("GET / 200")
    handler.close()
    file.close()
    assert json.loads((tmp_path / "log").read_text())["message"] == "GET / 200"


_REPLICA = """
import logging, sys
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve._private.common import ServeComponentType
from ray.serve.schema import LoggingConfig
from app.deployments.application import _logging
from app.deployments.process import configure_logging
from app.serving.references import ModelVersion
from app.settings import Settings
settings = Settings(log_format=sys.argv[2])
config = LoggingConfig(**_logging(settings), logs_dir=sys.argv[1])
configure_component_logger(
    component_name="Gateway", component_id="g1", component_type=ServeComponentType.REPLICA, logging_config=config,
    max_bytes=10**6, backup_count=1,
)
configure_logging(settings)
logging.getLogger("app.hosting").info("model unloaded: model=%s", ModelVersion("prices", "2"))
logging.getLogger("app.hosting").debug("not at this level")
logging.getLogger("ray.serve").warning("a line of Serve")
"""


def replica_lines(folder: Path, form: str) -> list[str]:
    """What a replica's process writes to its log, configured by Serve first and then by us."""
    command = [sys.executable, "-W", "ignore", "-c", _REPLICA, str(folder), form]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.log")
    return file.read_text().splitlines()


def test_all_lines_of_a_replica_are_json(tmp_path: Path) -> None:
    ours, of_serve = map(json.loads, replica_lines(tmp_path, "json"))
    assert (ours["message"], ours["logger"]) == ("model unloaded: model=prices/versions/2", "app.hosting")
    assert (ours["model"], ours["version"], ours["deployment"], ours["replica"]) == ("prices", "2", "Gateway", "g1")
    assert (of_serve["message"], of_serve["logger"]) == ("a line of Serve", "ray.serve")


def test_text_is_what_serve_makes_of_it(tmp_path: Path) -> None:
    ours, _ = replica_lines(tmp_path, "text")
    assert ours.startswith("INFO ")
    assert ours.endswith("model unloaded: model=prices/versions/2")
