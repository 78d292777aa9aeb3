"""`make bench`: starts each system in turn, loads it, checks its answers, and reports."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from benchmarks import chart, environments, load, markdown, models, systems, workloads
from benchmarks.paths import ROOT
from benchmarks.processes import Failed
from benchmarks.record import Recorder, Results, read
from benchmarks.report import show
from benchmarks.session import Session
from benchmarks.systems import System

T = TypeVar("T")
_WIDTH = 160
console = Console(width=None if sys.stdout.isatty() else _WIDTH)


def main(  # noqa: PLR0917 - typer reads them
    chosen: Annotated[str, typer.Option("--workloads", "-w", help="Names, comma-separated; all where empty.")] = "",
    compared: Annotated[str, typer.Option("--systems", "-s", help="Names, comma-separated; all where empty.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each system is started and measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each measurement.")] = 6,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before each measurement.")] = 2,
    again: Annotated[
        Path | None, typer.Option("--report", help="Measure nothing: report these raw results, page and chart too.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(envvar="BENCH_LOCK", help="File to lock while a system runs.")] = None,
) -> None:
    """Measure systems side by side."""
    if again is not None:
        _report(read(again), write=True)
        return
    # A shell that starts this in the background lets it ignore SIGINT, and so would every system that is stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is stopped first
    names = chosen.split(",") if chosen else [*workloads.BY_NAME, workloads.ENCODINGS]
    loads = _named([name for name in names if name != workloads.ENCODINGS], workloads.BY_NAME, "workload")
    found = _named(compared.split(",") if compared else list(systems.BY_NAME), systems.BY_NAME, "system")
    recorder = Recorder(names, [one.name for one in found], rounds, seconds)
    if loads:
        load.find_wrk()
        _prepare(found, recorder)
    if workloads.ENCODINGS in names:
        with _locked(lock):
            _encodings(recorder)
    for turn in range(rounds):
        for session in dict.fromkeys(one.session for one in loads):
            at = turn % len(found)
            for system in found[at:] + found[:at]:  # nobody is always first, or always after the same one
                own = [one for one in loads if one.session == session and system.name in one.systems]
                if own and not recorder.is_failed(system.name):
                    _progress(f"round {turn + 1}: {system.name}, {session}")
                    with _locked(lock):
                        _measure(Session(system, session, own, turn, seconds, warm_up), recorder)
    _report(recorder.results, write=not (chosen or compared))
    console.print(f"raw results: {recorder.path.relative_to(ROOT)}", style="dim")


def _prepare(found: list[System], recorder: Recorder) -> None:
    """Make the models and install the systems."""
    if not models.are_made():
        _progress("making the models")
        subprocess.run([sys.executable, "-m", "benchmarks.models"], cwd=ROOT, check=True, capture_output=True)
    for system in found:
        try:
            environments.install(system, _progress)
            recorder.version(system.name, environments.version(system))
        except RuntimeError as error:
            recorder.failed(system.name, f"cannot be installed: {error}")


def _measure(session: Session, recorder: Recorder) -> None:
    """Run a session; what fails in it is reported, and the others go on."""
    try:
        for record in session.run(recorder.note):
            recorder.add(record)
    except (Failed, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        recorder.failed_session(session.system.name, session.name, session.turn, str(error))
        _progress(f"failed: {str(error)[:300]}")


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Hold the lock that others hold too when they measure on this machine."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _encodings(recorder: Recorder) -> None:
    """What `encodings.py` measures, in a process of its own."""
    _progress("encodings")
    command = (sys.executable, "-m", "benchmarks.encodings", "--json")
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        recorder.note(f"encodings: {done.stderr.strip()[-300:]}")
    else:
        recorder.encodings(json.loads(done.stdout))


def _report(results: Results, *, write: bool) -> None:
    """Print what was found, and where everything was measured write the page and the chart."""
    show(results, console)
    if write:
        markdown.write(results)
        chart.draw(results)
        console.print(f"written: {markdown.PATH.relative_to(ROOT)}, {chart.PATH.relative_to(ROOT)}", style="dim")


def _named(names: list[str], known: Mapping[str, T], what: str) -> list[T]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no {what} '{unknown[0]}'; there are: {', '.join(known)}")
    return [known[name] for name in names]


def _progress(text: str) -> None:
    console.print(f"· {time.strftime('%H:%M:%S')} {text}", style="dim", markup=False)


if __name__ == "__main__":
    typer.run(main)
