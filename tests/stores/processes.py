"""Start servers as plain processes, or skip the test if they are not installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.missing import missing

_START_S = 60.0
_END_S = 10.0


def need(*programs: str, package: str, folders: Sequence[str] = ()) -> None:
    """Skip the test if a program is missing; fail in CI, which installs all of them."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    absent = [program for program in programs if shutil.which(program, path=path) is None]
    if absent:
        missing(f"{', '.join(absent)} is not installed: on Debian, apt-get install {package}")


def is_listening(port: int) -> bool:
    """Return whether a server on this machine accepts connections."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def is_answering(url: str) -> bool:
    """Return whether an HTTP server responds, with any status."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class Processes:
    """Servers that share a folder. They end in reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        is_up: Callable[[], bool],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        ends_on: signal.Signals = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start a server and wait until `is_up`. Its output goes to ``NAME.out`` in the folder."""
        out = self.folder / f"{name}.out"
        with out.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                user=user,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # its children end with it
            )
        self._stack.callback(_end, process, ends_on)
        deadline = time.monotonic() + _START_S
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{name} did not start:\n{out.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        return process

    def run(self, *command: str, user: str | None = None) -> str:
        """Run a command and return its standard output."""
        done = subprocess.run(
            command, capture_output=True, text=True, user=user, cwd=self.folder, timeout=_START_S, check=False
        )
        if done.returncode:
            pytest.fail(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.stdout


def _end(process: subprocess.Popen[bytes], ends_on: signal.Signals) -> None:
    for how in (ends_on, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            break
