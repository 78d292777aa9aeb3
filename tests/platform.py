"""The real platform for tests: `make serve` in a process group of its own, on the default ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psutil

ROOT = Path(__file__).parent.parent
URL = "http://127.0.0.1:8000"
DEMO = "commodity_price_predictor"
PORTS = (8000, 8404, 9000, 9101)
_START_S = 240.0
_STOP_S = 240.0
_TOO_SLOW = ("timed out during startup", "did not answer within")
"""What a start says that a busy machine delayed beyond a limit of Ray or of a check, 30 s each."""


class Platform:
    """Starts and stops what a user would, with the user's own commands.

    Args:
        home: folder of the embedded state.
        log: file that gets what `make serve` prints.
        settings: further variables of its environment.
    """

    def __init__(self, home: Path, log: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.home = home
        self.log = log
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, again: bool = True, **settings: str) -> None:
        """Run `make serve` and return once it says that it is ready. A start that was too slow is tried once more.

        Args:
            settings: variables of this start alone.
        """
        # MLflow leaves its addresses in the environment of the process that used it: here, the tests'.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment.update(
            {"ML_SERVE_HOME": str(self.home), "ML_SERVE_REGISTRY_POLL_S": "1", **self._settings, **settings}
        )
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                ["make", "serve"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while "Ctrl-C stops everything" not in self.output():
            if again and self._process.poll() is not None and any(text in self.output() for text in _TOO_SLOW):
                self.start(again=False, **settings)
                return
            assert self._process.poll() is None, f"it ended by itself:\n{self.output()}"
            assert time.monotonic() < deadline, f"not ready in {_START_S} s:\n{self.output()}"
            time.sleep(0.2)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send SIGINT to the whole group, as a terminal does, and other signals to `ml-serve`; wait for its end."""
        assert self._process is not None
        command = self.command()
        if number is signal.SIGINT:
            os.killpg(self._process.pid, number)
        else:
            command.send_signal(number)
        with contextlib.suppress(psutil.NoSuchProcess):
            command.wait(_STOP_S)
        code = self._process.wait(_STOP_S)
        self._process = None
        return code

    def command(self) -> psutil.Process:
        """The process of `ml-serve up` under make."""
        assert self._process is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        return next(process for process in below if process.cmdline()[-1:] == ["up"])

    def kill(self) -> None:
        """`kill -9` of everything at once: `ml-serve`, Ray and its load balancer."""
        command = self.command()
        everything = [command, *command.children(recursive=True)]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything, timeout=_STOP_S)
        assert self._process is not None
        self._process.wait(_STOP_S)
        self._process = None

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        title = f"ray::ServeReplica:ml-serve:{deployment}"
        return [process for process in psutil.process_iter() if _title(process).startswith(title)]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return next(iter(process.cmdline()), "")
    return ""


def leftovers() -> list[str]:
    """Processes of Ray or of its load balancer that run on this machine."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        name, line = process.info["name"], " ".join(process.info["cmdline"] or ())
        if name in ("haproxy", "raylet", "gcs_server") or line.startswith("ray::"):
            found.append(f"{process.info['pid']} {line[:120]}")
    return found


def remaining() -> list[str]:
    """Return the processes that are still there after a while. Some of Ray's take long to end, HAProxy never does."""
    deadline = time.monotonic() + 60
    while (left := leftovers()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def listening(port: int) -> bool:
    """Whether some process of this machine listens on the port."""
    return any(
        c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port for c in psutil.net_connections("tcp")
    )
