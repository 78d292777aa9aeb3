"""`ml-serve up`: run the whole platform in the foreground until a signal stops it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil
from rich.console import Console
from rich.panel import Panel

from app.demo import COLUMNS, EXAMPLE, MODEL
from app.deployments.environment import (
    apply,
    begin_run,
    end_run,
    protect_token,
    quiet_environment,
    ray_environment,
    session_folder,
)
from app.deployments.json_logs import write_json
from app.doctor import examine_machine
from app.errors import StartupError
from app.preparation import preparation, require
from app.settings import Settings
from app.settings.stores import without_password

if TYPE_CHECKING:
    from app.deployments.runtime import Runtime

log = logging.getLogger(__name__)

_READY_MARGIN_S = 60.0
_ALIVE_EVERY_S = 5.0
_SILENT_CHECKS = 6
_WORTH_A_RESTART_S = 60.0
"""A platform that ended by itself sooner after it was ready would probably do so again."""
_UMASK = 0o077
"""Logs, sockets and the embedded stores are for this user alone."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RUN_FILE = "run.json"


class Announcements:
    """What `up` tells the operator: text for the console, or log lines if those are JSON."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._console = console
        self._is_json = settings.log_format == "json"
        if self._is_json:
            handler = logging.StreamHandler(sys.stdout)
            write_json(handler)
            logger = logging.getLogger("app")
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)

    def step(self, text: str) -> None:
        """Tell what begins."""
        self.say(text) if self._is_json else self._console.print(f"· {text}", style="dim")

    def say(self, text: str) -> None:
        """Tell a result."""
        log.info("%s", text) if self._is_json else self._console.print(text)

    def fail(self, text: str) -> None:
        """Tell why the platform ends."""
        log.error("%s", text) if self._is_json else self._console.print(text, style="red")

    def ready(self, settings: Settings, runtime: Runtime, seconds: float, *, demo: bool) -> None:
        """Tell the addresses, and how to call the demo model."""
        if self._is_json:
            log.info("ml-serve is ready: url=%s seconds=%.1f logs=%s", runtime.url, seconds, runtime.log_folder)
            return
        self._console.print(panel(settings, runtime, seconds))
        if demo:
            shown = example(runtime.url, with_key=settings.auth.mode != "none")
            self._console.print(f"Try it:\n\n{shown}\n", soft_wrap=True, markup=False, highlight=False)


def run(settings: Settings, *, demo: bool, console: Console) -> int:
    """Start, print the addresses, wait for SIGINT or SIGTERM, stop. Returns the exit code.

    If Ray ends by itself, this process starts from the beginning, unless the cluster is somebody else's.

    Raises:
        StartupError: something needed is missing, taken or broken; the message says what.
    """
    _interrupt_on_signals()
    environment = dict(os.environ)
    announcements = Announcements(settings, console)
    os.umask(_UMASK)
    protect_token()
    started = time.monotonic()
    apply(quiet_environment())
    settings.home.mkdir(parents=True, exist_ok=True)
    end_abandoned_run(settings.home)
    require(examine_machine(settings))
    run_folder = begin_run()
    apply({**ray_environment(settings, run_folder), "RAY_TMPDIR": str(session_folder())})
    _write_run(settings.home, run_folder, None)

    from app.deployments.runtime import Runtime  # noqa: PLC0415 - imports Ray, which reads the environment set above

    runtime = Runtime(settings, run_folder, announcements.step)
    lasted_s = 0.0
    stops: list[int] = []
    try:
        with preparation(settings, demo=demo) as prepared:
            runtime.start()
            _interrupt_on_signals()  # Ray has replaced the handlers
            _write_run(settings.home, run_folder, runtime.session())
            runtime.start_serve()
            for line in prepared.result():
                announcements.say(line)
        from app.main import build  # noqa: PLC0415 - imports Serve

        runtime.deploy(build(settings))
        runtime.wait_ready(settings.longest_load_s + _READY_MARGIN_S)
        announcements.ready(settings, runtime, time.monotonic() - started, demo=demo)
        announcements.say("Ctrl-C stops everything.")
        ready_at = time.monotonic()
        _wait(runtime)
        lasted_s = time.monotonic() - ready_at
        announcements.fail(f"Ray or the application ended unexpectedly; logs: {runtime.log_folder}")
    except KeyboardInterrupt:
        return 0
    finally:
        for number in _STOP_SIGNALS:  # a second signal must not interrupt a clean stop
            signal.signal(number, lambda received, _: stops.append(received))
        runtime.stop(has_ended=lasted_s > 0)
        (settings.home / _RUN_FILE).unlink(missing_ok=True)
        announcements.say("stopped")
    if settings.ray_address is None and lasted_s > _WORTH_A_RESTART_S and not stops:
        announcements.say("starting again")
        _start_again(environment)
    return 1


def _interrupt_on_signals() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def _wait(runtime: Runtime) -> None:
    """Return once Ray has ended, or has not answered for half a minute, which a restarting controller may need."""
    silent = 0
    while silent < _SILENT_CHECKS and not runtime.has_ended():
        time.sleep(_ALIVE_EVERY_S)
        silent = 0 if runtime.answers() else silent + 1


def _start_again(environment: dict[str, str]) -> NoReturn:
    """Replace this process by one of the same command: Ray reads its variables once."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - the same command


def panel(settings: Settings, runtime: Runtime, seconds: float) -> Panel:
    """Return the addresses of a running platform, to be printed."""
    url = runtime.url
    lines = [
        f"API          {url}",
        f"gRPC         127.0.0.1:{settings.grpc_port}",
        f"Swagger UI   {url}/docs",
        f"Health       {url}/health",
        f"Metrics      {url}/metrics",
        f"Registry     {without_password(settings.registry_uri)}",
        f"Features     {settings.feast_folder or 'not configured'}",
        f"Logs         {runtime.log_folder}",
    ]
    if settings.dashboard and settings.ray_address is None:
        lines.insert(5, f"Dashboard    http://127.0.0.1:{settings.dashboard_port}")
    return Panel("\n".join(lines), title=f"ml-serve is ready after {seconds:.0f} s", expand=False)


def example(url: str, *, with_key: bool = False) -> str:
    """Return a shell command that calls the demo model."""
    key = ' -H "authorization: Bearer $ML_SERVE_API_KEY"' if with_key else ""
    body = json.dumps({"model_name": MODEL, "data": dict(zip(COLUMNS, EXAMPLE, strict=True))})
    return f"curl -s {url}/serve{key} -H 'content-type: application/json' -d '{body}'"


def end_abandoned_run(home: Path) -> None:
    """End the processes that this home's last run left behind after an unclean end.

    Raises:
        StartupError: that run is still alive.
    """
    path = home / _RUN_FILE
    try:
        last = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if _is_same_process(last):
        raise StartupError(f"ml-serve already runs from {home} as process {last['pid']}; stop it first")
    end_run(Path(last["folder"]), last.get("session"))
    path.unlink(missing_ok=True)


def _is_same_process(last: dict[str, object]) -> bool:
    # The creation time tells whether the process id was reused.
    try:
        process = psutil.Process(int(str(last["pid"])))
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() == last["created"]
    except (psutil.Error, KeyError, ValueError):
        return False


def _write_run(home: Path, folder: Path, session: str | None) -> None:
    own = psutil.Process(os.getpid())
    facts = {"pid": own.pid, "created": own.create_time(), "folder": str(folder), "session": session}
    (home / _RUN_FILE).write_text(json.dumps(facts))
