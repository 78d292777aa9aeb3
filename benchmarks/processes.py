"""`Running`: a system as a process group of its own, from its start until all its processes have ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_POLL_S = 0.1
_STOP_S = 60.0
_REPLICA = re.compile(r"ray::ServeReplica:[\w-]+:([\w-]+)")
_LOG_TAIL = 1500
Memory = dict[str, list[int]]
"""Proportional set sizes of a system's processes in bytes, by kind. Pages that processes share count once in all."""


class Failed(Exception):
    """A system did not start; the message contains the end of its log."""


class Running:
    """Start a command, and measure and stop its process tree.

    Args:
        variables: added to this process's environment, without the variables of MLflow and ml-serve.
        ports: ports that must be free before the start and after the end.
        log: file for its output.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str], ports: Sequence[int], log: Path
    ) -> None:
        taken = [port for port in ports if is_taken(port)]
        if taken:
            raise Failed(f"ports {taken} are in use by other processes")
        self._ports = ports
        self._log = log
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ML_SERVE"))
        }
        environment.update(MLFLOW_DISABLE_TELEMETRY="true", RAY_USAGE_STATS_ENABLED="0", FEAST_USAGE="False")
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_for(self, answers: Callable[[], bool], timeout_s: float) -> float:
        """Return the seconds from the start until `answers` returns true. Raises `Failed`."""
        while time.monotonic() - self.started < timeout_s:
            if answers():
                return time.monotonic() - self.started
            if self._process.poll() is not None:
                raise Failed(f"it ended unexpectedly: {self.tail()}")
            time.sleep(_POLL_S)
        raise Failed(f"no correct answer within {timeout_s:g} s: {self.tail()}")

    def memory(self) -> Memory:
        """Return the memory of each process: Ray Serve replicas by deployment, others by program."""
        found: Memory = defaultdict(list)
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                found[_kind(process)].append(process.memory_full_info().pss)
        return dict(found)

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def stop(self, number: signal.Signals) -> list[str]:
        """Stop it as an operator would. Returns, and ends, the processes that it left behind."""
        tree = self._tree()
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            tree = list({process.pid: process for process in [*tree, *self._tree()]}.values())
        _, left = psutil.wait_procs(tree, timeout=3)
        remains = [f"process {process.pid} ({_name(process)})" for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        self._process.wait(5)
        return remains + [f"port {port}" for port in self._ports if is_taken(port)]

    def tail(self) -> str:
        """Return the end of its log, in one line."""
        return " ".join(self._log.read_text(errors="replace")[-_LOG_TAIL:].split())

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []


def is_taken(port: int) -> bool:
    """Return whether a process listens on the port."""
    return any(
        one.laddr and one.laddr.port == port
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    )


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    replica = _REPLICA.search(line)
    return replica[1] if replica else line.split()[0] if line.startswith("ray::") else process.name()


def _name(process: psutil.Process) -> str:
    try:
        return _kind(process)
    except psutil.Error:
        return "gone"
